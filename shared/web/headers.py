"""The security headers of every answer."""

from dataclasses import replace

from shared.web.messages import Response


def secured(response: Response, *, https: bool, form_action: tuple[str, ...], frame_ancestors: tuple[str, ...]) -> Response:
    """Adds what every answer carries.

    Args:
        response: what the route answered.
        https: whether browsers reach the app over TLS.
        form_action: origins besides our own where a form may end up; the redirect behind a form counts.
        frame_ancestors: who may frame the answer; nobody where it is empty.
    """
    ancestors = " ".join(frame_ancestors) or "'none'"
    targets = " ".join(("'self'", *form_action))
    policy = f"default-src 'none'; base-uri 'none'; form-action {targets}; frame-ancestors {ancestors}"
    headers = [
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", policy),
        ("Referrer-Policy", "same-origin"),
        ("X-Content-Type-Options", "nosniff"),
        ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ]
    if not frame_ancestors:
        headers += [
            ("X-Frame-Options", "DENY"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ]
    if https:
        # This host name only: what else lives below it is not ours to force.
        headers.append(("Strict-Transport-Security", "max-age=31536000"))
    return replace(response, headers=(*response.headers, *headers))
