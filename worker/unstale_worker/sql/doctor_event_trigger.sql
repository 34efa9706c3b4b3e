select pg_catalog.count(*) from pg_catalog.pg_event_trigger where evtname = 'unstale_ddl' and evtenabled <> 'D'
