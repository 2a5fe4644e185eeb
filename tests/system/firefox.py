"""Firefox without a screen, led over Marionette.

The protocol: https://firefox-source-docs.mozilla.org/testing/marionette/Protocol.html; its commands are WebDriver's
(https://www.w3.org/TR/webdriver2/), and "chrome" is the browser's own user interface.
"""

import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from tests.support.processes import PATIENCE

COMMAND = ("firefox-esr", "--headless", "--no-remote", "--marionette", "--remote-allow-system-access")
POLL_SECONDS = 0.03

_PREFERENCES: Mapping[str, object] = {
    "alerts.useSystemBackend": False,  # notifications are windows of its own: there is no desktop to show them
    "permissions.default.desktop-notification": 1,  # as if the user had said yes
    "dom.push.testing.allowInsecureServerURL": True,  # ws:// instead of wss://
    "browser.dom.window.dump.enabled": True,  # Marionette says on stdout where it listens,
    "marionette.port": 0,  # as the system chooses the port
    "remote.prefs.recommended": False,  # they would switch push off
    "datareporting.policy.dataSubmissionEnabled": False,  # no page about privacy in a second tab
    "services.settings.loglevel": "off",
    "network.proxy.type": 1,  # to a proxy that is not there: nothing but loopback, which needs none, is in reach
    "network.proxy.http": "127.0.0.1",
    "network.proxy.http_port": 9,
    "network.proxy.ssl": "127.0.0.1",
    "network.proxy.ssl_port": 9,
}


@define
class Firefox:
    """A browser with one tab, and those that pages open."""

    _stream: trio.SocketStream
    _tab: str = ""
    _number: int = 0
    _buffer: bytearray = field(factory=bytearray)

    async def begin(self) -> None:
        """Open the session."""
        assert (await self._read())["marionetteProtocol"] == 3
        await self._ask("WebDriver:NewSession")
        self._tab = await self._ask("WebDriver:GetWindowHandle")

    async def visit(self, url: str) -> None:
        """Load a page in the first tab, in front of all others."""
        await self._return(focus=True)
        await self._ask("WebDriver:Navigate", url=url)

    async def script(self, body: str, *arguments: object) -> Any:
        """Run the *body* of a function in the page or window that we are in; a promise is waited for."""
        return await self._ask("WebDriver:ExecuteScript", script=body, args=arguments)

    async def tabs_once_in_front(self, url: str) -> list[str]:
        """Wait until the tab in front shows *url*; return the URLs of all tabs."""
        await self._return(focus=False)
        await self._ask("Marionette:SetContext", value="chrome")
        found: list[str] = []
        with trio.move_on_after(PATIENCE):
            while found[:1] != [url]:
                found = await self.script(
                    "const { gBrowser } = Services.wm.getMostRecentWindow('navigator:browser');"
                    "return [gBrowser.selectedTab, ...gBrowser.tabs].map((tab) => tab.linkedBrowser.currentURI.spec);"
                )
                await trio.sleep(POLL_SECONDS)
            return found[1:]
        raise AssertionError(f"waited in vain for {url} in front, which is the first of {found}")

    async def alert(self) -> tuple[str, str]:
        """Wait until a notification is on show; be in its window, and return the title and the text that it shows."""
        await self._ask("Marionette:SetContext", value="chrome")
        while True:
            for handle in await self._ask("WebDriver:GetWindowHandles"):
                await self._ask("WebDriver:SwitchToWindow", handle=handle, focus=False)
                if await self.script("return window.gIsActive === true;"):  # chrome://global/content/alerts/alert.js
                    title, text = await self.script(
                        "return ['alertTitleLabel', 'alertTextLabel'].map((id) => document.getElementById(id))"
                        ".map((label) => label.value || label.textContent);"
                    )
                    return title, text
            await trio.sleep(POLL_SECONDS)

    async def click(self, selector: str) -> None:
        """Move the mouse to the middle of an element of the window that we are in, and click on what is there."""
        element = await self._ask("WebDriver:FindElement", using="css selector", value=selector)
        move = {"type": "pointerMove", "x": 0, "y": 0, "origin": element}
        press, release = ({"type": name, "button": 0} for name in ("pointerDown", "pointerUp"))
        mouse = {"type": "pointer", "id": "mouse", "actions": [move, press, release]}
        await self._ask("WebDriver:PerformActions", actions=[mouse])

    async def screenshot(self) -> str:
        """The whole window that we are in, as a PNG in base64."""
        shot: str = await self._ask("WebDriver:TakeScreenshot", full=True)
        return shot

    async def _return(self, *, focus: bool) -> None:
        """Be in the first tab, and have it in front, too, if *focus*."""
        await self._ask("Marionette:SetContext", value="content")
        await self._ask("WebDriver:SwitchToWindow", handle=self._tab, focus=focus)

    async def _ask(self, command: str, **parameters: object) -> Any:
        self._number += 1
        message = json.dumps([0, self._number, command, parameters]).encode()
        await self._stream.send_all(b"%d:%s" % (len(message), message))
        _, number, error, result = await self._read()
        assert (number, error) == (self._number, None), f"{command}: {error}"
        return result["value"] if isinstance(result, dict) and result.keys() == {"value"} else result

    async def _read(self) -> Any:
        while not (head := re.match(rb"(\d+):", self._buffer)):
            self._buffer += await self._receive()
        end = head.end() + int(head[1])
        while len(self._buffer) < end:
            self._buffer += await self._receive()
        message = json.loads(self._buffer[head.end() : end])
        del self._buffer[:end]
        return message

    async def _receive(self) -> bytes:
        data = bytes(await self._stream.receive_some())
        assert data, "the browser has gone"
        return data


@asynccontextmanager
async def running_firefox(profile: Path, push_server: str, seconds: float) -> AsyncIterator[Firefox]:
    """Run a browser for the length of the block, which may take so many *seconds*.

    What fails in the block tells what the browser said, too.

    Args:
        profile: a folder to make.
        push_server: the ws: URL of its push service.
    """
    profile.mkdir()
    preferences = {**_PREFERENCES, "dom.push.serverURL": push_server}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences.items()]
    (profile / "user.js").write_text("".join(lines), encoding="utf-8")
    process = await trio.lowlevel.open_process(
        [*COMMAND, "--profile", profile, "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HOME": str(profile)},
        start_new_session=True,  # a process group for all its processes
    )
    said = bytearray()
    try:
        with trio.fail_after(seconds):
            async with trio.open_nursery() as nursery:
                port = await nursery.start(_listen, process.stdout, said)
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    firefox = Firefox(stream)
                    await firefox.begin()
                    yield firefox
                nursery.cancel_scope.cancel()
    except Exception as error:
        error.add_note(f"The browser said:\n{said[-4000:].decode(errors='replace')}")
        raise
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


async def _listen(
    stdout: trio.abc.ReceiveStream, said: bytearray, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
) -> None:
    """Take in what the browser says; tell the port that it lets itself be led at."""
    told = False
    async for data in stdout:
        said += data
        if not told and (found := re.search(rb"Listening on port (\d+)", said)):
            task_status.started(int(found[1]))
            told = True
