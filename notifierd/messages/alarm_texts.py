"""The texts of all alarms, each in Japanese and in English: what happened, and what to do.

A text mentions the values of its alarm by name, as in `str.format`. A number is shown with its thousands separated, or
as one of two phrases: ``{mails:# mail|# mails}``. A list is shown up to so many items: ``{reasons:5}``.
"""

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from notifierd.config.settings import Language
from notifierd.model.reasons import Reason


@frozen
class AlarmText:
    """The text of an alarm in one language: a title of a few words, what happened, and what to do."""

    title: str
    text: str
    advice: str


_OPEN_JA = (
    "未送信の配信は取り消されず、再試行されるか email.fallback のサービスから送られます。"
    "実行時間帯の終わりまでに送れなかった分は時間切れになります。"
)
_OPEN_EN = (
    "Its deliveries stay planned, and are retried or go through email.fallback; what is left when the window ends "
    "expires."
)

ALARMS: Final[Mapping[str, Mapping[Language, AlarmText]]] = {
    # while a run is under way
    "slow": {
        "ja": AlarmText(
            "実行が長引いています",
            "{day} の実行は、開始から {seconds:,.0f} 秒たっても終わっていません（watch.run_seconds は {limit:g}）。"
            "事業所 {offices} か所のうち {done} か所が済み、実行は続いています。",
            "何に時間がかかっているかは、`notifierd status` とページで確認できます。",
        ),
        "en": AlarmText(
            "The run is slow",
            "The run of {day} has taken {seconds:,.0f} s so far, longer than watch.run_seconds ({limit:g}): "
            "{done} of {offices:# office|# offices} done. It continues.",
            "`notifierd status` and the page show what delays it.",
        ),
    },
    "blocked": {
        "ja": AlarmText(
            "{sender} に認証情報またはアカウントを拒否されています",
            "{sender} が認証情報またはアカウントを拒否しています（{reasons:5}）。" + _OPEN_JA,
            "API キーとアカウントの状態を確認してください。キーを変更したら、notifierd を再起動してください。",
        ),
        "en": AlarmText(
            "{sender} rejects our credentials or account",
            "{sender} rejects our credentials or account ({reasons:5}). " + _OPEN_EN,
            "Check the key and the account. After you change the key, restart notifierd.",
        ),
    },
    "proxy_blocked": {
        "ja": AlarmText(
            "プロキシに認証情報を拒否されています",
            "{sender} を呼び出す際に、プロキシが認証情報を拒否しています（{reasons:5}）。" + _OPEN_JA,
            "network.proxy の利用者名とパスワードを確認してください。",
        ),
        "en": AlarmText(
            "The proxy rejects our credentials",
            "The proxy rejects our credentials for calls of {sender} ({reasons:5}). " + _OPEN_EN,
            "Check the user and the password in network.proxy.",
        ),
    },
    "out": {
        "ja": AlarmText(
            "{sender} が利用できません",
            "{sender} の呼び出しが {seconds:.0f} 秒間すべて失敗しています（{reasons:5}）。" + _OPEN_JA,
            "サービスの稼働状況とネットワークを確認してください。",
        ),
        "en": AlarmText(
            "{sender} is unavailable",
            "{sender} has failed every call for {seconds:.0f} s ({reasons:5}). " + _OPEN_EN,
            "Check its status page and the network.",
        ),
    },
    "configs_differ": {
        "ja": AlarmText(
            "設定の異なるデーモンがあります",
            "このホストのデーモンは、設定の {tables} がほかのデーモンと異なるため、"
            "{day} の実行に加わらずに待機しています。実行は、{leader} が中心となって続いています。",
            "全台の設定をそろえてください。どのデーモンが実行に加わっているかは、`notifierd status` で確認できます。",
        ),
        "en": AlarmText(
            "A daemon has another configuration",
            "The daemon on this host stands by and does not join the run of {day}, because {tables} of its "
            "configuration differ from those of the other daemons. The run continues; {leader} leads it.",
            "Make the configurations the same. `notifierd status` shows which daemons work on the day.",
        ),
    },
    # at the end of a run
    "failures": {
        "ja": AlarmText(
            "配信の失敗が多すぎます",
            "{day} の配信 {planned} 件のうち {lost} 件が誰にも届きませんでした"
            "（{share:.1%}。watch.failure_ratio は {limit:g}）。理由: {reasons:5}。",
            "原因を取り除いたら、その日のうちに `notifierd retry --failed --expired` を実行してください。"
            "失敗した配信が予定に戻り、何によって送られるのかが表示されます。",
        ),
        "en": AlarmText(
            "Too many deliveries failed",
            "{lost} of {planned:# delivery|# deliveries} of {day} reached nobody ({share:.1%}; watch.failure_ratio is "
            "{limit:g}): {reasons:5}.",
            "After you fix the cause, `notifierd retry --failed --expired` plans them again, on the same day only, and "
            "says what sends them.",
        ),
    },
    "failures_cut": {
        "ja": AlarmText(
            "配信の失敗が多すぎます",
            "{day} の配信 {planned} 件のうち {lost} 件が誰にも届きませんでした"
            "（{share:.1%}。watch.failure_ratio は {limit:g}）。最初の {listed} 件の理由: {reasons:5}。",
            "原因を取り除いたら、その日のうちに `notifierd retry --failed --expired` を実行してください。"
            "失敗した配信が予定に戻り、何によって送られるのかが表示されます。",
        ),
        "en": AlarmText(
            "Too many deliveries failed",
            "{lost} of {planned:# delivery|# deliveries} of {day} reached nobody ({share:.1%}; watch.failure_ratio is "
            "{limit:g}): of the first {listed}, {reasons:5}.",
            "After you fix the cause, `notifierd retry --failed --expired` plans them again, on the same day only, and "
            "says what sends them.",
        ),
    },
    "untold": {
        "ja": AlarmText(
            "期限超過のアラートが誰にも届いていません",
            "{day} の期限超過のアラート {overdue} 件（事業所 {offices} か所）が誰にも届いていません。"
            "通知できる職員がいないか、配信がすべて失敗しています。",
            "事業所へ直接ご連絡ください。",
        ),
        "en": AlarmText(
            "Overdue alerts reached nobody",
            "{overdue:# overdue alert|# overdue alerts} of {day} reached nobody, in {offices:# office|# offices}: no "
            "staff can be notified, or every delivery failed.",
            "Contact {offices:this office|these offices} yourself.",
        ),
    },
    # what became of the mails
    "untold_later": {
        "ja": AlarmText(
            "送信後に不達が判明しました",
            "{day} のメールは送信サービスに受け付けられましたが、その後、届かなかったと報告されました。"
            "このため、アラート {alerts} 件（うち期限超過 {overdue} 件、事業所 {offices} か所）が"
            "誰にも届いていません。",
            "事業所へ直接ご連絡ください。メールがどうなったかは `notifierd feedback` で確認できます。",
        ),
        "en": AlarmText(
            "Mails were accepted, and then reached nobody",
            "The provider accepted mails of {day} and reported later that they reached nobody. So "
            "{alerts:# alert|# alerts} ({overdue} overdue) reached nobody, in {offices:# office|# offices}.",
            "Contact {offices:this office|these offices} yourself; `notifierd feedback` shows what became of the "
            "mails.",
        ),
    },
    "bounces": {
        "ja": AlarmText(
            "宛先不明のメールが増えています",
            "直近7日間のメール {mails} 通のうち {bounced} 通が宛先不明で戻りました"
            "（{share:.1%}。watch.bounce_ratio は {limit:g}）。"
            "割合が 4〜10 % を超えると、送信サービスはアカウントを停止します。",
            "アプリケーションに登録されたアドレスを直してください。該当するアドレスは送信サービスの管理画面で確認できます。",
        ),
        "en": AlarmText(
            "Many mails bounced",
            "{bounced} of {mails:# mail|# mails} of the last seven days bounced ({share:.1%}; watch.bounce_ratio is "
            "{limit:g}). Providers stop accounts with more than 4 to 10 %.",
            "Correct the addresses in the application; the provider's own page lists them.",
        ),
    },
    "complaint": {
        "ja": AlarmText(
            "メールが迷惑メールとして報告されました",
            "受信者 {recipients} 人が {day} のメールを迷惑メールとして報告しました。"
            "この受信者へのメールの送信を30日間止めます。",
            "`notifierd feedback` で職員を確認し、通知が必要かどうかを本人に尋ねてください。"
            "必要であれば、`notifierd lift` で送信を再開できます。",
        ),
        "en": AlarmText(
            "A mail was reported as spam",
            "{recipients:# recipient|# recipients} reported a mail of {day} as spam. Mails to them are held back for "
            "30 days.",
            "`notifierd feedback` lists the staff members: ask them whether they want the reminders; `notifierd lift` "
            "ends holding back.",
        ),
    },
    "feedback": {
        "ja": AlarmText(
            "{provider} からメールの到達状況を読み取れません",
            "{hours} 時間を超えて、{provider} からメールの到達状況を最後まで読み取れていません（{reason}）。"
            "その間の不達には気づけません。",
            "問い合わせ用のキーが使えるかどうかは、`notifierd check --connect` で確認できます。",
        ),
        "en": AlarmText(
            "{provider} does not tell what became of the mails",
            "For more than {hours} hours, {provider} could not be asked completely what became of the mails "
            "({reason}). Mails that reached nobody stay unnoticed.",
            "`notifierd check --connect` shows whether its key works.",
        ),
    },
    "enforcement": {
        "ja": AlarmText(
            "{provider} のアカウントが制限されています",
            "{provider} がアカウントを制限しています（状態: {status}）。",
            "{provider} からアカウントの所有者に届いた連絡を読み、アカウントが停止される前に回答してください。",
        ),
        "en": AlarmText(
            "{provider} restricts our account",
            "{provider} restricts our account: its status is {status}.",
            "Read what {provider} wrote to the owner of the account, and answer it before it stops the account.",
        ),
    },
    # runs that did not begin, or did not finish
    "missed": {
        "ja": AlarmText(
            "実行されませんでした",
            "実行されなかった日があります: {days:10}。誰にも通知されていません。"
            "期限の続いているものは、次の実行で通知されます。",
            "当日であれば、`notifierd once` で今すぐ実行できます。",
        ),
        "en": AlarmText(
            "There was no run",
            "No run on {days:10}. Nobody was notified; the next run reports what is still due.",
            "If the day is today, `notifierd once` runs it now.",
        ),
    },
    "failed": {
        "ja": AlarmText(
            "実行に失敗しました",
            "{day} の実行に失敗しました: {why}",
            "直すべき点は `notifierd check` で確認できます。",
        ),
        "en": AlarmText(
            "The run failed",
            "The run of {day} failed: {why}.",
            "`notifierd check` shows what to fix.",
        ),
    },
    "crashed": {
        "ja": AlarmText(
            "実行がプログラムの異常で失敗しました",
            "{day} の実行が、プログラムの異常で失敗しました（{error}）。",
            "ログを保存し、報告してください。実行できる状態かどうかは `notifierd check` で確認できます。",
        ),
        "en": AlarmText(
            "The run crashed",
            "The run of {day} failed: it crashed ({error}).",
            "Keep the log, and report it. `notifierd check` shows whether a run can begin.",
        ),
    },
    "unfinished": {
        "ja": AlarmText(
            "実行が完了しませんでした",
            "{day} の実行は完了しませんでした（{reason}）。期限の続いているものは、次の実行で通知されます。",
            "残っている配信は、その日の24時までに `notifierd once` を実行すれば送られます。",
        ),
        "en": AlarmText(
            "The run did not finish",
            "The run of {day} did not finish ({reason}). The next run reports what is still due.",
            "`notifierd once` sends its open deliveries, until midnight.",
        ),
    },
    "expired": {
        "ja": AlarmText(
            "実行が完了しませんでした",
            "{day} の実行は完了せず（{reason}）、残っていた配信は時間切れになりました。"
            "期限の続いているものは、次の実行で通知されます。",
            "送られなかった配信は `notifierd history` で確認できます。",
        ),
        "en": AlarmText(
            "The run did not finish",
            "The run of {day} did not finish ({reason}): its open deliveries expired. The next run reports what is "
            "still due.",
            "`notifierd history` shows what was not sent.",
        ),
    },
}


@frozen
class Frame:
    """What surrounds the text of an alarm, in one language."""

    offices: str
    more_offices: str
    look: str
    page: str
    labels: tuple[str, str, str]
    between: str
    more: str
    """After the items of a list that are shown."""
    counted: str
    """An item of a list with its number."""
    missed: str
    """A day with the reason why it has no run."""
    channels: Mapping[str, str]
    why_missed: Mapping[str, str]


FRAMES: Final[Mapping[Language, Frame]] = {
    "ja": Frame(
        offices="対象の事業所:",
        more_offices="ほか {} か所",
        look="確認先: `notifierd status`、`notifierd history`",
        page="、ページ（{}）",
        labels=("日付", "種別", "ホスト"),
        between="、",
        more="、ほか {} 件",
        counted="{what}（{n:,} 件）",
        missed="{day}（{why}）",
        channels={"email": "メール", "push": "プッシュ"},
        why_missed={
            Reason.NOT_RUNNING: "notifierd が動いていませんでした",
            Reason.SLEPT_THROUGH: "マシンがスリープしたか、時計が変更されました",
        },
    ),
    "en": Frame(
        offices="Offices:",
        more_offices="and {} more",
        look="See `notifierd status`, `notifierd history`",
        page=", the page at {}",
        labels=("Day", "Cause", "Host"),
        between=", ",
        more=" and {} more",
        counted="{n:,} {what}",
        missed="{day} ({why})",
        channels={},
        why_missed={
            Reason.NOT_RUNNING: "no daemon was running",
            Reason.SLEPT_THROUGH: "the machine slept, or its clock was set",
        },
    ),
}
