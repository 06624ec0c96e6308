"""What can be wrong with a backup, each as one sentence for whoever asked."""


class BackupError(Exception):
    """A backup cannot be made, used or restored; the message says why and what to do."""


class NoSuchBackup(BackupError):
    """There is no backup of that name."""


class BackupDamaged(BackupError):
    """A backup is not what was written."""


class BackupBusy(BackupError):
    """Somebody else works on the backups."""
