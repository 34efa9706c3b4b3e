rollback to savepoint unstale_recording; release savepoint unstale_recording
