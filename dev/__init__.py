"""What only a developer's machine needs: the local host, the provider, Azurite and the commands. Never deployed."""
