"""What goes over the wire: requests and answers, cookies, addresses, pages.  Nothing here does I/O."""
