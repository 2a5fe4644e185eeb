"""What the fakes of several providers share: they note requests."""

from collections.abc import Mapping

import httpx
from attrs import define, field

from notifierd.demo.servers.feedback import fake


@define
class Fake(fake.Fake):
    """A provider that remembers what became of mails, and tells it by its API.

    Attributes:
        seen: the requests so far.
    """

    seen: list[tuple[str, str, bytes]] = field(factory=list)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def handler(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> fake.Reply | None:
        self.seen.append((method, target, body))
        return super().handler(method, target, headers, body)


def transport(provider: fake.Fake, *, torn: bool = False) -> httpx.MockTransport:
    """Answer by *provider* without a socket, so that virtual time can be used.

    Args:
        torn: whether an answer that is cut comes by half; else its connection ends without one.
    """

    def handle(request: httpx.Request) -> httpx.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = request.method, request.url.raw_path.decode("ascii"), headers, request.content
        found = provider.handler(*call)
        if found is not None:
            return httpx.Response(found[0], headers=found[1], content=found[2])
        status, sent, body = provider.answer(*call)
        if not torn:
            raise httpx.ReadError("")
        return httpx.Response(status, headers=sent, content=body[: len(body) // 2])

    return httpx.MockTransport(handle)
