"""The hub's client: its settings are checked before any request, and each of its errors becomes one line."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ..base.errors import PriorError

TIMEOUTS = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")
PROXIES = "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY"


class Refusal(PriorError):
    """A repository that does not provide the model; another one may."""


class TokenRefusal(Refusal):
    """A hub that rejects the token; without it the hub may still provide the model."""


def check_timeouts() -> None:
    """Raise PriorError for timeouts that the client cannot parse: it would fail as soon as diffusers imports it."""
    for name in TIMEOUTS:
        try:
            if int(os.environ.get(name, "10")) < 0:
                raise ValueError
        except ValueError:
            raise PriorError(f"{name} is {os.environ[name]!r}: give a whole number of seconds") from None


def client():
    """The hub's client, with its telemetry off, which would also cost a request. Raises PriorError for settings that it
    cannot parse."""
    check_timeouts()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors

    return huggingface_hub


def timeout() -> int:
    """Seconds to wait for a model's metadata: HF_HUB_ETAG_TIMEOUT, else HF_HUB_DOWNLOAD_TIMEOUT, else the client's
    default."""
    constants = client().constants
    return constants.HF_HUB_ETAG_TIMEOUT if os.environ.get(TIMEOUTS[0]) else constants.HF_HUB_DOWNLOAD_TIMEOUT


def check_settings() -> None:
    """Raise PriorError for an environment in which no request can be made, or no model kept: bad HF_ENDPOINT, proxies
    or certificates, no home folder."""
    constants = client().constants
    endpoint = constants.ENDPOINT
    if constants.HF_HUB_CACHE.startswith("~"):  # as it was written: the client would make a folder of that name
        raise PriorError("no home folder is known to keep models in; set HOME, or HF_HOME to a folder")
    if not is_address(endpoint, ("http", "https")):
        raise PriorError(
            f"HF_ENDPOINT is {endpoint!r}, which is no address of a hub: it takes a scheme and a host, as "
            "in https://huggingface.co"
        )
    if (proxy := proxy_of(endpoint)) and not is_address(proxy, ("http", "https", "socks5", "socks5h")):
        raise PriorError(
            f"the proxy of the environment ({PROXIES}) is {proxy!r}, which is no address of one, as in "
            "http://proxy.example:3128"
        )
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if (path := os.environ.get(name)) and not os.path.exists(path):
            raise PriorError(f"{name} is {path!r}, which does not exist")


def is_address(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        address = urlsplit(text)
        return address.scheme in schemes and bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False


@contextmanager
def hub_errors(model: str, repo: str, revision: str | None = None):
    """Turn what the client raises into one line: a Refusal where another repository may help, else PriorError."""
    try:
        yield
    except (PriorError, MemoryError):
        raise
    except Exception as error:  # besides its own the client lets through errors of its HTTP, JSON and TLS libraries
        raise explain(error, model, repo, revision) from None


def explain(error: BaseException, model: str, repo: str, revision: str | None) -> PriorError:
    """The client's error as a PriorError that says what it means for fetching the repository."""
    errors, constants = client().errors, client().constants
    if type(error) in (errors.LocalEntryNotFoundError, ValueError) and error.__cause__ is not None:
        error = error.__cause__  # why a file's entry could not be had
    http_error = errors.HfHubHTTPError.__bases__[0]  # from whichever HTTP library the client uses
    again = f"dreamfusion-ngp fetch {model}"
    if isinstance(error, errors.HfHubHTTPError):
        return explain_answer(error, repo, revision, again)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return PriorError(
            f"{model} is not whole on this machine and HF_HUB_OFFLINE is set; with a network: HF_HUB_OFFLINE=0 {again}"
        )
    if isinstance(error, http_error):
        return explain_network(error, constants.ENDPOINT, again)
    if isinstance(error, errors.HFValidationError):
        return PriorError(f"{repo} is no hub id: {first_line(error)}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PriorError(
            f"the disk is full: free some space in {constants.HF_HUB_CACHE} or set HF_HOME to another "
            f"disk, then run: {again}"
        )
    if isinstance(error, OSError) and not isinstance(error, errors.FileMetadataError):
        return PriorError(f"{model} cannot be fetched: {first_line(error)}; try again: {again}")
    if isinstance(error, (errors.FileMetadataError, ValueError, TypeError, KeyError, AttributeError)):
        return PriorError(
            f"{constants.ENDPOINT} does not answer as a hub does ({type(error).__name__}: "
            f"{first_line(error)}): HF_ENDPOINT may name another kind of server, or the login page of "
            "the network or a proxy answers instead"
        )
    return PriorError(f"{model} cannot be fetched: {type(error).__name__}: {first_line(error)}; try again: {again}")


def explain_answer(error, repo: str, revision: str | None, again: str) -> PriorError:
    """A PriorError for an HTTP error status of the hub. error: the client's HfHubHTTPError."""
    errors, place = client().errors, f"{client().constants.ENDPOINT}/{repo}"
    status, sent = getattr(error.response, "status_code", "an error"), sent_token(error)
    if sent and (
        status == 401 or (status == 403 and not isinstance(error, (errors.GatedRepoError, errors.DisabledRepoError)))
    ):
        return TokenRefusal(f"the token of {token_source()} is refused ({place} answers {status})")
    if isinstance(error, errors.GatedRepoError):
        return Refusal(f"{repo} is gated: accept its terms at {place}, then run: HF_TOKEN=hf_... {again}")
    if isinstance(error, errors.RevisionNotFoundError):
        return Refusal(f"{place} has no revision {revision or 'main'}; its revisions: {place}/tree/main")
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return Refusal(f"{place} lists a file that it does not have ({error.response.url}); try again: {again}")
    if isinstance(error, errors.DisabledRepoError):
        return Refusal(f"{place} is disabled by the hub (it answers {status})")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        access = "the token given has no access to it" if sent else f"with access run: HF_TOKEN=hf_... {again}"
        return Refusal(
            f"{place} does not exist or is private; give another hub id or a folder (--guidance FOLDER); "
            f"if it is private, {access}"
        )
    meaning: dict[int | str, str] = {
        403: "access is forbidden",
        407: f"the proxy {proxy_of(place)} wants a name and a password",
        429: f"too many requests; wait, then: {again}",
        451: "it is withheld for legal reasons",
    }
    kind = Refusal if status in (403, 410, 451) else PriorError
    return kind(f"{place} answers {status}: {meaning.get(status, f'try again later: {again}')}")


def explain_network(error: BaseException, endpoint: str, again: str) -> PriorError:
    """A PriorError that says why there was no response. error: one of the HTTP library's."""
    causes = [error]
    while (deeper := causes[-1].__cause__ or causes[-1].__context__) is not None and deeper not in causes:
        causes.append(deeper)
    name, proxy = type(error).__name__, proxy_of(endpoint)
    if "CERTIFICATE_VERIFY_FAILED" in str(error) or any(isinstance(e, ssl.SSLCertVerificationError) for e in causes):
        return PriorError(
            f"{endpoint}: the certificate is not trusted ({first_line(error)}); where a proxy inspects "
            f"the traffic, SSL_CERT_FILE=its-certificate.pem {again}"
        )
    detail = first_line(error)
    if any(isinstance(e, socket.gaierror) for e in causes):
        host = urlsplit(proxy or endpoint).hostname
        detail = f"the name {host} is not known to DNS: {detail}"
    elif "Timeout" in name:
        detail = f"no answer in time; {' and '.join(TIMEOUTS)} set the seconds to wait"
    through = f" through the proxy {proxy} ({PROXIES})" if proxy else ""
    return PriorError(
        f"{endpoint} cannot be reached{through} ({name}: {detail}); with a network run: {again} "
        "(HF_ENDPOINT names a mirror of the hub), or give a folder: --guidance FOLDER"
    )


def sent_token(error) -> bool:
    """Whether the failed request carried a token."""
    request = getattr(error.response, "request", None)
    return "authorization" in getattr(request, "headers", ())


def token_source() -> str:
    """Where the client takes its token from."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return name
    return client().constants.HF_TOKEN_PATH


def proxy_of(address: str) -> str:
    """The proxy that the environment names for an address, without its password; "" for none."""
    parts, proxies = urlsplit(address), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or proxy_bypass(parts.hostname or ""):
        return ""
    scheme, _, rest = proxy.rpartition("://")
    return f"{scheme or 'http'}://{rest.rpartition('@')[2]}"


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
