"""The variables of the environment that an HTTP client is made from, those of proxies above all."""

from __future__ import annotations

import os
from urllib.parse import urlsplit
from urllib.request import proxy_bypass


def client_problem() -> str | None:
    """What to tell the user of the variable that no HTTP client can be made with; None where one can be made."""
    from huggingface_hub.utils import httpx  # the client that the Hub's uses: httpx2 since its version 2

    given = {name: value.strip() for name, value in os.environ.items() if value.strip()}
    for name in (name for name in given if name.lower() in ("http_proxy", "https_proxy", "all_proxy")):
        address = given[name] if "://" in given[name] else f"http://{given[name]}"
        try:
            httpx.Client(proxy=address, trust_env=False).close()
        except ImportError:
            return f"{name} names a SOCKS proxy, which needs another package: pip install socksio, or unset {name}"
        except (ValueError, httpx.InvalidURL):
            return f"{name} is no address of a proxy: write http://HOST:PORT (an IPv6 HOST in brackets), or unset it"
    try:
        httpx.Client().close()
    except OSError:
        return "SSL_CERT_FILE or SSL_CERT_DIR names no certificates that can be read: correct it, or unset it"
    except (ValueError, httpx.InvalidURL):
        return "NO_PROXY holds what is no host: write HOST,HOST without networks or brackets of IPv6, or unset it"
    return None


def proxy_variable(address: str) -> str | None:
    """The variable that names the proxy through which an address is asked; None where it is asked directly."""
    parts = urlsplit(address)
    if proxy_bypass(parts.hostname or ""):
        return None
    wanted = (f"{parts.scheme}_proxy", "all_proxy")
    return next((name for low in wanted for name in (low, low.upper()) if os.environ.get(name)), None)
