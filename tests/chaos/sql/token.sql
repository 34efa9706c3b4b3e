select unstale.token()
