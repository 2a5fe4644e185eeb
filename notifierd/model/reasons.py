"""The reason codes: why a delivery reached nobody, why a day has no run, and why a run ended early.

Each code has its meaning, and what an operator can do, in Japanese and in English. The page at / and docs/reasons.md
show these texts.
"""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A reason code. The ledger, the report, the log and the page show it, often with details: see `of`.

    Attributes:
        japanese: what it means, and what an operator can do.
        english: the same in English.
    """

    japanese: str
    english: str

    def __new__(cls, code: str, japanese: str, english: str) -> Self:
        """Make a member from its code and the two texts."""
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.japanese, reason.english = japanese, english
        return reason

    def of(self, *details: object) -> str:
        """Return the code with *details* after colons, as a provider's status in ``rejected:422``."""
        return ":".join([self.value, *map(str, details)])

    def before(self, reason: str) -> str:
        """Return the code as a prefix of another *reason*; for BATCH and TOKEN, whose codes end in ``_``."""
        return f"{self.value}{reason}"

    def begins(self, reason: str | None) -> bool:
        """Whether *reason* is this code with or without details, or has it as its prefix."""
        return reason is not None and self is Reason.explaining(reason)

    @classmethod
    def explaining(cls, reason: str) -> "Reason | None":
        """Return the code that a text in the ledger begins with, up to its details; None if it has none."""
        code = reason.partition(" ")[0].partition(":")[0]
        return _BY_CODE.get(code) or _BY_CODE.get(f"{code.partition('_')[0]}_")

    # about this message or its recipient
    REJECTED = (
        "rejected",
        "サービスがこの宛先または内容を恒久的に拒否しました。職員のメールアドレスを確認してください。",
        "The provider permanently rejected this message or its address. Check the address in the application.",
    )
    BATCH = (
        "batch_",
        "複数のメールをまとめた呼び出しが拒否され、どのメールが原因かは示されませんでした。",
        "The provider rejected a call with several mails and did not say which of them was the cause.",
    )
    REFUSED = (
        "refused",
        "サービスがその時点では受け付けませんでした。",
        "The provider did not accept it at that time.",
    )
    NO_ADDRESS = (
        "no_address",
        "メールアドレスが登録されていません。職員の登録内容を直してください。",
        "The staff member has no mail address. Add it in the application.",
    )
    BAD_ADDRESS = (
        "bad_address",
        "メールアドレスの形式が正しくありません。職員の登録内容を直してください。",
        "The mail address is not valid. Correct it in the application.",
    )
    ADDRESS_NOT_ASCII = (
        "address_not_ascii",
        "@ より前に英数字以外の文字があるアドレスには送信できません。職員の登録内容を直してください。",
        "Mail cannot be sent to an address with non-ASCII letters before the @. Correct it in the application.",
    )
    HELD = (
        "held",
        "迷惑メールの報告か、サービスの配信停止リストのため、メールを控えています。notifierd lift で解除できます。",
        "Mails are held back after a complaint or a suppression. Check the address; `notifierd lift` ends it.",
    )
    BAD_SUBSCRIPTION = (
        "bad_subscription",
        "端末の登録情報が壊れています。職員がもう一度通知を許可する必要があります。",
        "The device's keys are not valid. Its owner has to allow notifications again.",
    )
    ENDPOINT_REFUSED = (
        "endpoint_refused",
        "端末の宛先 URL が許可されていません。正当なプッシュサービスなら push.allowed_hosts に追加してください。",
        "The device's endpoint is not allowed. Add its host to push.allowed_hosts if that is a real push service.",
    )
    HOST_NOT_FOUND = (
        "host_not_found",
        "端末の宛先 URL にあるホスト名が存在しません。",
        "The host in the device's endpoint does not exist.",
    )
    DEVICE_REFUSED = (
        "device_refused",
        "別の鍵で登録された端末です。職員がもう一度通知を許可する必要があります。",
        "The device was subscribed under another key. Its owner has to allow notifications again.",
    )
    DROPPED = (
        "dropped",
        "Windows のプッシュサービスが配信せずに破棄しました。",
        "The Windows push service discarded the push.",
    )
    CHANNELTHROTTLED = (
        "channelthrottled",
        "この端末宛ての通知が多すぎるため、Windows のプッシュサービスが破棄しました。",
        "The Windows push service discarded the push because the device received too many.",
    )
    GONE = (
        "gone",
        "端末の登録が失効していたため削除しました。",
        "The device's subscription has ended, so the device was removed.",
    )
    # trouble at the provider
    RATE_LIMITED = (
        "rate_limited",
        "サービスの送信制限に達しました。limits.email_per_second を下げるか、上限の引き上げを依頼してください。",
        "The provider's rate limit was reached. Lower limits.email_per_second, or ask the provider for a higher limit.",
    )
    SERVER_ERROR = (
        "server_error",
        "サービス側の障害です。サービスの稼働状況を確認してください。",
        "The provider has an outage or an error. See its status page.",
    )
    UNEXPECTED = (
        "unexpected",
        "サービスが想定外の応答をしました。サービスの稼働状況を確認してください。",
        "The provider gave an answer that it does not document. See its status page.",
    )
    NOT_THE_PROVIDER = (
        "not_the_provider",
        "サービス以外(プロキシやファイアウォールなど)が応答しました。ネットワークと接続先を確認してください。",
        "A proxy or a firewall, for example, answered instead of the provider. Check the network and base_url.",
    )
    MAINTENANCE = ("maintenance", "サービスがメンテナンス中でした。", "The provider was under maintenance.")
    REQUEST_TIMEOUT = ("request_timeout", "サービスの応答が遅すぎました。", "The provider took too long to answer.")
    TOO_EARLY = (
        "too_early",
        "サービスがその時点では受け付けませんでした。",
        "The provider did not accept it at that time.",
    )
    CONNECTION_FAILED = (
        "connection_failed",
        "サービスに接続できませんでした。ネットワークと稼働状況を確認してください。",
        "The provider was unreachable. Check the network and the provider's status page.",
    )
    CERTIFICATE_UNTRUSTED = (
        "certificate_untrusted",
        "接続先の証明書を信頼できません。通信を検査する機器があれば、その認証局を network.ca_file に指定してください。",
        "No trusted authority signed the server's certificate. If something inspects TLS, set network.ca_file.",
    )
    CERTIFICATE_EXPIRED = (
        "certificate_expired",
        "接続先の証明書の有効期限が切れているか、このサーバーの時計がずれています。",
        "The server's certificate has expired, or this machine's clock is wrong.",
    )
    CERTIFICATE_NOT_YET_VALID = (
        "certificate_not_yet_valid",
        "接続先の証明書がまだ有効ではありません。このサーバーの時計を確認してください。",
        "The server's certificate is not valid yet. Check this machine's clock.",
    )
    CERTIFICATE_NAME = (
        "certificate_name",
        "接続先の証明書が別の名前のものです。接続先と、途中の機器を確認してください。",
        "The server's certificate is for another name. Check the URL, and whether something on the way answered.",
    )
    PROXY_UNREACHABLE = (
        "proxy_unreachable",
        "プロキシに接続できませんでした。network.proxy を確認してください。",
        "The proxy was unreachable. Check network.proxy.",
    )
    PROXY_REFUSED = (
        "proxy_refused",
        "プロキシが接続を開きませんでした。プロキシの設定とログを確認してください。",
        "The proxy did not connect to the server: its rules forbid it (403), or it failed (500 to 504). See its log.",
    )
    PROXY_FAILED = (
        "proxy_failed",
        "プロキシの応答がないか、解釈できません。network.proxy を確認してください。",
        "The proxy gave no answer, or none that can be understood. Check that network.proxy names an HTTP proxy.",
    )
    TOKEN = (
        "token_",
        "Google のアクセストークンを取得できませんでした。サービスアカウントの鍵と委任の設定を確認してください。",
        "Google issued no access token. Check the service account's key and its delegation to the user.",
    )
    # the provider rejects us
    BLOCKED = (
        "blocked",
        "サービスが認証情報またはアカウントを拒否しています。API キー(SMTP はパスワード)と契約状態を確認してください。",
        "The provider rejects our credentials or account. Check the API key (SMTP: user and password) and the account.",
    )
    PROXY_AUTH_REQUIRED = (
        "proxy_auth_required",
        "プロキシが認証情報を求めているか、拒否しています。network.proxy の利用者名とパスワードを確認してください。",
        "The proxy requires a user and a password, or rejects ours. Check those in network.proxy.",
    )
    QUOTA = ("quota", "サービスの送信枠を使い切りました。", "The provider's quota is used up.")
    NOT_OFFERED = (
        "not_offered",
        "メールサーバーが STARTTLS か認証に対応していません。email.smtp の port と security を確認してください。",
        "The mail server offers no STARTTLS, or no login that notifierd knows. Check email.smtp.port and security.",
    )
    NOT_VERIFIED = (
        "not_verified",
        "送信元ドメインが確認されていません。サービス側で設定してください。",
        "The sending domain is not verified at the provider.",
    )
    SUSPENDED = ("suspended", "サービスのアカウントが停止されています。", "The account at the provider is suspended.")
    SENDING_PAUSED = (
        "sending_paused",
        "サービス側で送信が一時停止されています。",
        "Sending is paused at the provider, for the account or the configuration set.",
    )
    ACCESS_DENIED = (
        "access_denied",
        "アクセスキーに送信の権限がありません。",
        "The access key has no permission to send. Check its permissions at the provider.",
    )
    BAD_SIGNATURE = (
        "bad_signature",
        "署名が受け付けられませんでした。アクセスキーを確認してください。",
        "The provider rejects the request's signature. Check the access key.",
    )
    CLOCK_WRONG = (
        "clock_wrong",
        "署名の時刻がずれています。サーバーの時計を合わせてください。",
        "The time in the signature is wrong. Set this machine's clock.",
    )
    NOT_FOUND = (
        "not_found",
        "設定セットまたは接続先が存在しません。email.ses の設定を確認してください。",
        "The configuration set does not exist, or base_url is wrong. Check email.ses.",
    )
    # what became of accepted mails could not be read
    NO_RIGHT = (
        "no_right",
        "配信結果を読む権限がありません。理由コードの末尾にある権限をサービス側で追加してください。",
        "The key may not read what became of the mails. Add the permission that the code names, or use another key.",
    )
    UNREADABLE = (
        "unreadable",
        "配信結果の応答を最後まで解釈できませんでした。次の確認で改めて読み取ります。",
        "An answer about what became of the mails could not be read to its end. The next look asks again.",
    )
    TOO_MANY = (
        "too_many",
        "配信結果が多すぎて、一度の確認では読み切れませんでした。",
        "There was more to read about what became of the mails than one look reads.",
    )
    # unknown outcomes
    TIMEOUT = (
        "timeout",
        "応答がないまま時間切れになりました。届いたかもしれません。",
        "No answer came in time. The message may have been delivered.",
    )
    CONNECTION_LOST = (
        "connection_lost",
        "応答の前に接続が切れました。届いたかもしれません。",
        "The connection was lost before the answer. The message may have been delivered.",
    )
    ANSWER_UNCLEAR = (
        "answer_unclear",
        "サービスの応答を解釈できません。届いたかもしれません。",
        "The provider's answer could not be understood. The message may have been delivered.",
    )
    IN_PROGRESS = (
        "in_progress",
        "同じ呼び出しをサービスがまだ処理していました。届いたかもしれません。",
        "The provider was still processing the same call. The message may have been delivered.",
    )
    KEY_CONFLICT = (
        "key_conflict",
        "サービスが同じキーを別の内容で記憶していました。届いたかもしれません。",
        "The provider has the call's idempotency key with other content. The message may have been delivered.",
    )
    PROCESS_DIED = (
        "process_died",
        "送信中にプロセスが終了しました。届いたかもしれません。",
        "The process died while the message was being sent. The message may have been delivered.",
    )
    INTERRUPTED = (
        "interrupted",
        "送信中に停止されました。届いたかもしれません。",
        "The process was stopped while the message was being sent. The message may have been delivered.",
    )
    # our own
    NOT_BEGUN = (
        "not_begun",
        "送信を始める前に停止されたか、データベースの応答が遅く、内容が古くなりました。",
        "The process was stopped before sending began, or the database was so slow that the content became too old.",
    )
    OFFICE_ERROR = (
        "office_error",
        "この事業所のデータかテンプレートに問題があります。ログの office_failed に場所が出ています。",
        "This office's data or a template has an error. The log event office_failed says where.",
    )
    WINDOW_ENDED = (
        "window_ended",
        "実行時間帯のうちに送れませんでした。翌営業日の実行で改めて通知されます。",
        "The window ended before the message could be sent. The next business day's run reports what is still due.",
    )
    WINDOW_ENDED_IN_DOUBT = (
        "window_ended_in_doubt",
        "実行時間帯が終わりました。以前の試行で届いたかもしれません。",
        "The window ended. An earlier try may have delivered the message.",
    )
    NO_LONGER_DUE = (
        "no_longer_due",
        "送信前に通知の必要がなくなりました。",
        "Nothing was due any more when the message was about to be sent.",
    )
    DEVICE_GONE = (
        "device_gone",
        "送信前に端末の登録がなくなりました。",
        "The device was gone when the push was about to be sent.",
    )
    OFFICE_LEFT_OUT = (
        "office_left_out",
        "事業所が設定 safety.only_offices の対象に含まれていません。",
        "The office is not in safety.only_offices.",
    )
    STAFF_GONE = (
        "staff_gone",
        "送信前に職員が事業所から外れました。",
        "The staff member had left when the message was about to be sent.",
    )
    OFFICE_GONE = (
        "office_gone",
        "送信前に事業所が削除されました。",
        "The office was gone when the message was about to be sent.",
    )
    CHANNEL_DISABLED = (
        "channel_disabled",
        "この通知方法は設定で無効です。",
        "This channel is switched off in the configuration.",
    )
    # about a day's run
    SLEPT_THROUGH = (
        "slept_through",
        "時間帯の間、動作していながら実行できませんでした(スリープや時計の変更)。",
        "notifierd was running but suspended during the window: the machine slept, or its clock was set.",
    )
    NOT_RUNNING = (
        "not_running",
        "時間帯の間、notifierd は停止していました。",
        "notifierd was not running during the window.",
    )
    NEVER_RESUMED = (
        "never_resumed",
        "中断のまま再開されませんでした。",
        "The run was interrupted, and no process resumed it.",
    )
    RUN_DIED = (
        "run_died",
        "実行中にプロセスが終了しました。当日中は notifierd once で再開できます。",
        "The process died during the run. On the same day, `notifierd once` resumes it.",
    )
    PLAN_INCOMPLETE = (
        "plan_incomplete",
        "実行時間帯が終わるまでに、一部の事業所の通知を計画できませんでした。当日中は notifierd once で続行できます。",
        "The window ended before all offices were planned. On the same day, `notifierd once` goes on.",
    )
    SIGNAL = ("signal", "停止の指示で中断しました。", "The process was told to stop.")
    RETRIED = (
        "retried",
        "失敗した配信を送り直すため、未完了に戻されました。",
        "`notifierd retry` planned deliveries again; they are still to be sent.",
    )
    DATABASE_UNAVAILABLE = (
        "database_unavailable",
        "データベースに接続できませんでした。",
        "The database was unreachable.",
    )
    DATABASE_REFUSED = (
        "database_refused",
        "データベースに拒否されました。notifierd check で確認してください。",
        "The database refused a statement. `notifierd check` shows what is missing.",
    )
    CLOSED_DATES = ("closed_dates", "設定された休業日です。", "The configuration lists this date as closed.")
    WEEKEND = ("weekend", "週末です。", "The day is on a weekend.")
    WEEKDAY = ("weekday", "設定された休業曜日です。", "The configuration lists this weekday as closed.")
    HOLIDAY = ("holiday", "祝日です。", "The day is a public holiday.")


_BY_CODE = {reason.value: reason for reason in Reason}
