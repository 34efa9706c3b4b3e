"""What a push of migrations or a restart with the rules on disk would change, before it is done."""
