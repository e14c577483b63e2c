"""The sockets: HTTP/1.1 by the door, HTTP/2 by the bridge, TLS."""
