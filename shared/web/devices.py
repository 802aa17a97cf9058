"""A user agent in words, for the list of devices: conservative, and never wrong by guessing."""

_BROWSERS = (("Edg/", "Edge"), ("OPR/", "Opera"), ("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("Version/", "Safari"))
_SYSTEMS = (
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)
_LIMIT = 512


def describe_user_agent(user_agent: str) -> str:
    """Browser and system, as in *Firefox on Windows*; *Unknown browser* where the header does not say."""
    text = user_agent[:_LIMIT]
    browser = next((name for mark, name in _BROWSERS if mark in text), None)
    system = next((name for mark, name in _SYSTEMS if mark in text), None)
    if browser is None:
        return "Unknown browser" if system is None else f"Unknown browser on {system}"
    return browser if system is None else f"{browser} on {system}"
