"""``notifierd`` with a mail API that has no idempotency keys: ``python -P tests/support/keyless.py once ...``.

It sends as to Resend, for an API that takes no notice of the key. So have most of them none; and the crash fuzz needs
one that its own local API can play.
"""

from notifierd.cli import main
from notifierd.send import open as providers
from notifierd.send.mail.resend import Resend


class Keyless(Resend):
    """Resend, were it to ignore ``Idempotency-Key``."""

    honours_keys = False


if __name__ == "__main__":
    providers.PROVIDERS = {**providers.PROVIDERS, "resend": (__name__, Keyless.__name__)}
    main.main()
