"""A user agent in words, for the list of devices.

Only what the header says: an iPad that calls itself a Mac is a Mac here, and a browser that calls itself Chrome is Chrome.
"""

_BROWSERS = (
    # Most claim to be one of the later ones as well: the first mark found counts.
    ("Edg/", "Edge"),
    ("EdgA/", "Edge"),
    ("EdgiOS/", "Edge"),
    ("Edge/", "Edge"),
    ("OPR/", "Opera"),
    ("OPT/", "Opera"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("Vivaldi/", "Vivaldi"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
)
_SYSTEMS = (
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)
_APPLE = frozenset({"iPhone", "iPad", "macOS"})
_LIMIT = 512


def describe_user_agent(user_agent: str) -> str:
    """Browser and system, as in *Firefox on Windows*; *Unknown browser* where the header does not say."""
    text = user_agent[:_LIMIT]
    system = next((name for mark, name in _SYSTEMS if mark in text), None)
    browser = next((name for mark, name in _BROWSERS if mark in text), None)
    if browser is None and system in _APPLE and "Version/" in text and "Safari/" in text:
        browser = "Safari"  # elsewhere those marks are an old Android browser's, or another WebKit's
    browser = browser or "Unknown browser"
    return browser if system is None else f"{browser} on {system}"
