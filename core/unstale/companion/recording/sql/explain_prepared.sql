explain (format json, verbose) execute unstale_recording @{arguments}
