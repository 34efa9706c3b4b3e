explain (format json, verbose) select * from @{table}
