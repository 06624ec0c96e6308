"""What only the services' own settings and drivers can tell `ragweave doctor`; no service imports it."""
