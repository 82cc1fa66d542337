"""TLS on the way to a Redis server: files that are looked at before anybody is asked, and what a handshake that failed
says of the server, its certificate or ours."""

from __future__ import annotations

import shlex
import ssl
from pathlib import Path
from typing import Final

from minitango.errors import StoreError
from minitango.store._redis_url import Place

_EXPIRED: Final = 10
_NOT_YET: Final = 9
_OTHER_NAME: Final = (62, 64)
_STRANGER: Final = (18, 19, 20, 21)
"""What OpenSSL calls a certificate that is signed by itself, or by nobody whom we know."""
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""Reasons that a handshake gives which met something else. The last: of Python's OpenSSL 3.2 and later."""
_OURS: Final = ("CERTIFICATE_REQUIRED", "UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "HANDSHAKE_FAILURE")
"""Alerts of a server that wants a certificate of ours, or another one."""


def check_files(place: Place) -> None:
    """StoreError `redis_tls` where a file that the URL names cannot be what it is to be. Nobody is asked."""
    files = place.tls
    for name, file in files.items():
        try:
            with Path(file).open("rb") as opened:
                opened.read(1)
        except OSError as error:
            raise _wrong(
                f"{file} cannot be read, which the store's URL names as {name}: {error.strerror}",
                f"correct the path in the URL, or look at it: ls -l {shlex.quote(file)}",
            ) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if (known := files.get("ssl_ca_certs")) is not None:
        try:
            context.load_verify_locations(known)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise _wrong(
                f"{known} holds no certificate in PEM, which the store's URL names as ssl_ca_certs",
                f"look at it: openssl x509 -noout -subject -in {shlex.quote(known)}",
            ) from error
    mine, key = files.get("ssl_certfile"), files.get("ssl_keyfile")
    if mine is None:
        if key is not None:
            raise _wrong("the store's URL names an ssl_keyfile, and no ssl_certfile", "name both")
        return
    try:
        context.load_cert_chain(mine, key, password=lambda: "")  # never asked for at a terminal
    except (ssl.SSLError, OSError, ValueError) as error:
        named = f"{mine} and its key {key}" if key else f"{mine}, without an ssl_keyfile,"
        raise _wrong(
            f"{named} cannot be used: {getattr(error, 'reason', None) or error}",
            "name a certificate and its key in the URL, in PEM, the key without a passphrase: "
            "&ssl_certfile=CERT.pem&ssl_keyfile=KEY.pem",
        ) from error


def trouble(error: BaseException, place: Place) -> StoreError | None:
    """What of TLS went wrong on the way to a server; None: it was something else."""
    if place.scheme != "rediss":
        return None
    try:
        check_files(place)  # they were there when it began
    except StoreError as gone:
        return gone
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _unverified(cause, place)
    reason = (cause.reason or "") if cause is not None else ""
    if reason in _NO_TLS:
        return no_tls(place)
    if reason.endswith(_OURS):
        return refused(place, reason)
    return None


def _unverified(error: ssl.SSLCertVerificationError, place: Place) -> StoreError:
    ask = f"openssl s_client -connect {place.peer} </dev/null | openssl x509 -noout"
    if error.verify_code == _EXPIRED:
        why, hint = "has expired", f"renew it on the server, or set this machine's clock: {ask} -dates"
    elif error.verify_code == _NOT_YET:
        why, hint = "is of the future", f"set the clock that is wrong (timedatectl): {ask} -dates"
    elif error.verify_code in _OTHER_NAME:
        why = f"is for another name ({error.verify_message.rstrip('.')})"
        hint = f"write a name in the URL that it is for: {ask} -ext subjectAltName"
    elif error.verify_code in _STRANGER:
        known = place.tls.get("ssl_ca_certs")
        why = "is signed by nobody who is known here" + (f", nor in {known}" if known else "")
        hint = "name the certificate of its authority in the URL: ssl_ca_certs=/PATH/ca.pem"
    else:
        why, hint = f"is not to be trusted: {error.verify_message}", f"{ask} -text"
    return _wrong(f"the certificate of Redis at {place.shown} {why}", hint)


def no_tls(place: Place) -> StoreError:
    """It was asked for TLS, and speaks none."""
    kind = "+" + place.kind if place.kind != "server" else ""
    return _wrong(
        f"what answers at {place.shown} speaks no TLS",
        f"write redis{kind}:// for rediss{kind}://, or give it a tls-port and name that",
    )


def only_tls(place: Place) -> StoreError:
    """It was not asked for TLS, and speaks nothing else."""
    kind = "+" + place.kind if place.kind != "server" else ""
    return _wrong(
        f"what answers at {place.shown} speaks TLS alone",
        f"write rediss{kind}:// for redis{kind}://, with ssl_ca_certs=/PATH/ca.pem if its signer is not known here",
    )


def refused(place: Place, reason: str) -> StoreError:
    """It does not take what we showed of ourselves."""
    mine = place.tls.get("ssl_certfile")
    if mine is None:
        return _wrong(
            f"Redis at {place.shown} wants a certificate of ours ({reason})",
            "name one and its key in the URL: ssl_certfile=/PATH/cert.pem&ssl_keyfile=/PATH/key.pem; "
            "or have it want none: tls-auth-clients no",
        )
    return _wrong(
        f"Redis at {place.shown} does not take our certificate {mine} ({reason})",
        f"name one in the URL that its authority signed: openssl x509 -noout -issuer -in {shlex.quote(mine)}",
    )


def _wrong(text: str, hint: str) -> StoreError:
    return StoreError(text, hint=hint, id="redis_tls")
