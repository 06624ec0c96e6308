"""What fulfils the ports, one file a technology."""
