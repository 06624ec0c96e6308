"""What `ragweave doctor` looks at on this machine; what only the services know is asked of them (services/doctor)."""
