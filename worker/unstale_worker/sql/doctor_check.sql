select severity, subject, finding, remedy from unstale.check()
