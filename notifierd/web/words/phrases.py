"""The phrases of the page, each in Japanese and in English."""

from collections.abc import Mapping
from typing import Final

Pair = tuple[str, str]

PHRASES: Final[Mapping[str, Pair]] = {
    # durations
    "seconds": ("{n}秒", "{n} s"),
    "minutes": ("{m}分{s}秒", "{m} min {s} s"),
    "only_minutes": ("{m}分", "{m} min"),
    "hours": ("{h}時間{m}分", "{h} h {m} min"),
    "days": ("{d}日{h}時間", "{d} d {h} h"),
    # the present state
    "running": ("実行中: {day}分", "Running {day}"),
    "planning": ("計画中: {day}分", "Planning {day}"),
    "draining": ("停止処理中: {day}分", "Stopping the run of {day}"),
    "starting": ("起動中", "Starting"),
    "sleeping": ("次の実行時間帯を待っています", "Waiting for the next window"),
    "standing_by": ("他のプロセスの控えとして待機中", "Standing by: another process is active"),
    "waiting_for_database": ("データベースを待っています", "Waiting for the database"),
    "cannot_run": ("実行できません", "Cannot run"),
    "schema_newer": (
        "データベースのスキーマに対して古いため待機中",
        "Standing by: this version is too old for the schema",
    ),
    "stopping": ("停止処理中", "Stopping"),
    "held_by": ("実行中のプロセス: {holder}", "Active process: {holder}"),
    "because": ("理由: {reason}", "Reason: {reason}"),
    "next_window": ("次の実行時間帯", "Next window"),
    "window": ("{opens}〜{ends}", "{opens} to {ends}"),
    "opens_in": ("あと{span}", "in {span}"),
    "open_now": ("実行時間帯内", "open now"),
    "last_run": ("前回の実行", "Last run"),
    "no_run_yet": ("まだありません", "None yet"),
    "offices": ("事業所", "Offices"),
    "mails": ("メール", "Mails"),
    "mails_sent": ("メール送信済み", "mails sent"),
    "pushes_sent": ("プッシュ送信済み", "pushes sent"),
    "pushes": ("プッシュ通知", "Pushes"),
    "of": ("{done} / {total}", "{done} of {total}"),
    "n_failed": ("失敗 {n}", "{n} failed"),
    "n_unknown": ("不明 {n}", "{n} unknown"),
    "n_expired": ("時間切れ {n}", "{n} expired"),
    "rate": ("速度", "Rate"),
    "per_second": ("毎秒 {n} 件", "{n} a second"),
    "time_left": ("残り時間", "Time left"),
    "about": ("約{span}", "about {span}"),
    "unclear": ("計算中", "being estimated"),
    "in_flight": ("処理中の事業所", "Offices in progress"),
    "members": ("実行中のプロセス", "Processes"),
    "led_by": ("{n}（主担当: {host}）", "{n} ({host} leads)"),
    "none": ("なし", "none"),
    "and_more": ("ほか{n}件", "and {n} more"),
    "began": ("開始", "Began"),
    "until": ("時間帯の終わり", "Window ends"),
    "live": ("自動更新中", "Live"),
    "still": (
        "{time} 時点の表示です。新しくするには再読み込みしてください。",
        "As of {time}. Reload the page to update it.",
    ),
    # what needs attention
    "attention": ("要確認", "Needs attention"),
    "reload_refused": (
        "設定ファイルに誤りがあるため、以前の設定で動いています",
        "The configuration file has a mistake; the previous configuration stays in effect",
    ),
    "ledger_away": ("台帳を読み出せません", "The ledger cannot be read"),
    "lane_blocked": ("{lane} が認証情報またはアカウントを拒否しています", "{lane} rejects our credentials or account"),
    "lane_out": ("{lane} が利用できません", "{lane} is unavailable"),
    "no_room": (
        "メール{mails}通（{offices}事業所）は上限を超えるため送信されません",
        "Mails over the limit, not sent: {mails}; offices: {offices}",
    ),
    "page_blind": (
        "データベースに接続できないため、履歴を表示できません",
        "The database is unreachable, so the history cannot be shown",
    ),
    # the processes that share the day
    "members_title": ("実行を分担しているプロセス", "Processes that share the day"),
    "host": ("ホスト", "Host"),
    "leads": ("主担当", "leads"),
    "its_version": ("版", "Version"),
    "mail_slots": ("メールの同時実行枠", "Mail slots"),
    "push_slots": ("プッシュの同時実行枠", "Push slots"),
    "offices_done": ("済んだ事業所", "Offices done"),
    "in_hand": ("処理中", "In hand"),
    "renewed": ("最終更新", "Last renewal"),
    # alerts that reached nobody
    "untold_title": ("未通知のアラート", "Alerts that reached nobody"),
    "untold_none": ("{day}分: 未通知のアラートはありません。", "{day}: every alert reached somebody."),
    "untold_sum": (
        "{day}分: アラート {alerts} 件、うち期限超過 {overdue} 件(事業所 {offices} か所)",
        "{day}: {alerts} in total, {overdue} overdue; offices: {offices}",
    ),
    "untold_later": ("実行の終了後に表示します。", "Shown when the run has ended."),
    "untold_help": (
        "担当者がいない、全員が通知を切っている、または配信がすべて失敗したか不達になった事業所です。直接ご連絡ください。",
        "No staff, all of the staff opted out, or every delivery failed or came back. Contact these offices yourself.",
    ),
    "overdue": ("期限超過", "Overdue"),
    "alerts": ("アラート", "Alerts"),
    "office": ("事業所", "Office"),
    "office_gone": ("(削除された事業所)", "(deleted office)"),
    # failures
    "failures_title": ("不達の配信", "Not delivered"),
    "failures_none": ("{day}分: ありません。", "{day}: none."),
    "failures_sum": ("{day}分: {n} 件", "{day}: {n} in total"),
    "reason": ("理由", "Reason"),
    "channel": ("通知方法", "Channel"),
    "state": ("状態", "State"),
    "deliveries": ("配信", "Deliveries"),
    "staff": ("職員", "Staff"),
    "provider": ("送信サービス", "Provider"),
    "at": ("時刻", "At"),
    "tries": ("試行", "Tries"),
    "any": ("すべて", "any"),
    "filter": ("絞り込む", "Filter"),
    "unfilter": ("絞り込みを解除", "Show all"),
    "shown": (
        "{total} 件中 {n} 件を表示しています。絞り込んでください。",
        "{n} of {total} are listed. Use the filter to narrow them down.",
    ),
    "each_failure": ("一件ごとの表示", "Each delivery"),
    "failures_later": (
        "実行中は、理由を選ぶか絞り込むと表示されます。",
        "While the run goes on, choose a reason or use the filter to list them.",
    ),
    "email": ("メール", "email"),
    "push": ("プッシュ", "push"),
    # what became of mails
    "became_title": ("メールの到達状況", "What became of the mails"),
    "became_help": (
        (
            "送信サービスに受け付けられたメールがその後どうなったかです。「到達」は受信側のサーバーが受け取ったことを示し、"
            "迷惑メールフォルダに入った場合も含みます。「未確認」は送信サービスからの報告がないことを示します。"
        ),
        (
            "What the provider reported of the mails after it had accepted them. “Delivered” means that the receiving "
            "server took the mail, perhaps into a spam folder. “Not known” means that nothing was reported."
        ),
    ),
    "became_none": ("この7日間に送信されたメールはありません。", "No mail was sent in the last seven days."),
    "became_unread": ("台帳を読み出せないため表示できません。", "The ledger could not be read."),
    "never_asked": (
        "送信サービスへの問い合わせは設定されていないか、まだ行われていません。",
        "No provider was asked yet, or asking is not set up.",
    ),
    "asked_at": (
        "{provider}: {moment} に問い合わせ、すべて読み取りました。",
        "{provider}: asked {moment}, everything was read.",
    ),
    "asked_partly": (
        "{provider}: {moment} の問い合わせは完了していません。",
        "{provider}: asked {moment}, not everything could be read.",
    ),
    "complete_until": ("{moment} までの分は確認済みです。", "Everything until {moment} was read before."),
    "held_back": (
        "送信を止めているメールアドレス: 職員 {n} 人分",
        "Staff members whose mails are held back: {n}",
    ),
    "delivered": ("到達", "delivered"),
    "delayed": ("遅延中", "delayed"),
    "bounced": ("宛先不明", "bounced"),
    "refused": ("受信拒否", "refused"),
    "suppressed": ("送信停止", "suppressed"),
    "complained": ("迷惑メール報告", "complained"),
    "not_known": ("未確認", "not known"),
    "silence": ("{n}(不達の報告なし)", "{n} (no bounce reported)"),
    "losses_title": ("受け付け後に不達または苦情のあったメール", "Accepted, and then lost or complained of"),
    "code": ("コード", "Code"),
    "to_do": ("対応", "What to do"),
    "advice_changed": (
        "その後アドレスが変更されています。次のメールは新しいアドレスに送られます。",
        "The address was changed since. The next mail goes to the new one.",
    ),
    "advice_bounced": (
        "この宛先はありません。職員に正しいアドレスを確認し、アプリケーションで直してください。",
        "There is no such mailbox. Ask the staff member for the right address, and correct it in the application.",
    ),
    "advice_carrier": (
        (
            "携帯電話会社が受信を拒否したか、宛先がありません(どちらも同じ応答です)。アドレスが正しければ、"
            "受信設定で {domain} を許可するよう職員に頼んでください。"
        ),
        (
            "Refused or unknown: the mobile carrier answers both alike. If the address is right, ask the staff member "
            "to allow mails from {domain}."
        ),
    ),
    "advice_full": (
        "メールボックスがいっぱいです。空きを作るよう職員に頼んでください。",
        "The mailbox is full. Ask the staff member to make room.",
    ),
    "advice_policy": (
        (
            "受信側のサーバーが当方からのメールを拒否しました。アドレスの誤りではありません。続く場合は管理者に伝え、"
            "{domain} の SPF、DKIM、DMARC を確認してください。"
        ),
        (
            "The receiving server refuses mails from us; the address is not wrong. If it goes on, tell the operator to "
            "check SPF, DKIM and DMARC of {domain}."
        ),
    ),
    "advice_refused": (
        (
            "受信側のサーバーが拒否しました。続く場合は、{domain} からの受信を許可するか、"
            "別のアドレスを登録するよう職員に頼んでください。"
        ),
        (
            "The receiving server refused the mail. If it goes on, ask the staff member to allow mails from {domain}, "
            "or for another address."
        ),
    ),
    "advice_suppressed": (
        (
            "以前の不達または迷惑メール報告により、送信サービスがこのアドレスへの送信を止めています。"
            "アドレスを確認し、正しければ送信サービスの停止リストから外してください。"
        ),
        (
            "The provider sends nothing to this address, because of an earlier bounce or complaint. Check the address; "
            "if it is right, remove it from the provider's suppression list."
        ),
    ),
    "advice_complained": (
        (
            "本人が迷惑メールとして報告しました。翌日から30日間メールを送りません。職員と話し、"
            "メールが必要なら「迷惑メールではない」と設定してもらってください。"
        ),
        (
            "The recipient reported the mail as spam. Mails are held back for 30 days from the next day on. Talk to "
            "the staff member; if mails are wanted, they should be marked as “not spam”."
        ),
    ),
    # states of deliveries
    "planned": ("予定", "planned"),
    "sending": ("送信中", "sending"),
    "sent": ("送信済み", "sent"),
    "failed": ("失敗", "failed"),
    "gone": ("端末なし", "gone"),
    "unknown": ("不明", "unknown"),
    "expired": ("時間切れ", "expired"),
    "open": ("未処理", "open"),
    # states of runs
    "run_running": ("実行中", "running"),
    "run_completed": ("完了", "completed"),
    "run_interrupted": ("中断", "interrupted"),
    "run_skipped": ("休業日", "skipped"),
    "run_missed": ("未実行", "missed"),
    # the days
    "days_title": ("直近30日", "Last 30 days"),
    "days_chart": ("直近30日の配信数のグラフ", "Chart of the deliveries of the last 30 days"),
    "days_desc": (
        "一日ごとの棒グラフ。最も多い日は {most} 件。不達は合計 {lost} 件。詳しくは下の表にあります。",
        "One bar for each day. Most deliveries of a day: {most}; not delivered in total: {lost}. A table follows.",
    ),
    "days_table": ("表で見る", "As a table"),
    "bar": ("{day}: {state}、送信 {sent}、不達 {lost}", "{day}: {state}, {sent} sent, {lost} not delivered"),
    "most": ("最多 {n} 件/日", "at most {n} a day"),
    "legend_sent": ("送信済み", "sent"),
    "legend_lost": ("不達", "not delivered"),
    "legend_missed": ("未実行", "missed"),
    "day": ("日付", "Day"),
    "took": ("所要時間", "Took"),
    "not_delivered": ("不達", "Not delivered"),
    "untold": ("未通知", "Untold"),
    "no_days": ("まだ記録がありません。", "Nothing is recorded yet."),
    # a day, an office
    "day_title": ("{day}の実行", "The run of {day}"),
    "day_unknown": ("この日の記録はありません。", "Nothing is recorded for this day."),
    "before": ("前日", "Day before"),
    "after": ("翌日", "Day after"),
    "offices_due": ("対象の事業所", "Offices with something due"),
    "offices_failed": ("失敗した事業所", "Offices that failed"),
    "troubled_title": ("不達のある事業所", "Offices with undelivered messages"),
    "office_unknown": ("この事業所は見つかりません。", "This office does not exist, and nothing is recorded for it."),
    "office_days": ("配信のあった日", "Days with deliveries"),
    "office_day": ("{day}の配信", "Deliveries of {day}"),
    # the frame of every page
    "title": ("通知の状況", "Notifications"),
    "overview": ("概要", "Overview"),
    "skip": ("本文へ", "Skip to the content"),
    "login": ("ログイン", "Log in"),
    "logout": ("ログアウト", "Log out"),
    "token": ("トークン", "Token"),
    "token_help": (
        "設定ファイルの http.token です。ブラウザには保存されず、7日間有効なセッションになります。",
        "The value of http.token in the configuration. The browser does not store it; it gets a session of seven days.",
    ),
    "token_wrong": ("トークンが違います。", "The token is wrong."),
    "version": ("notifierd {version}", "notifierd {version}"),
    "loaded": ("設定の読み込み: {moment}", "configuration loaded {moment}"),
    "zone": ("時刻は {zone}", "times in {zone}"),
    "not_found": ("ページが見つかりません。", "Page not found."),
}
