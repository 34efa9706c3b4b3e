-- A plan for any values, with every partition: otherwise a table that these values do not reach is left out.
set local plan_cache_mode = force_generic_plan; set local enable_partition_pruning = off; set local constraint_exclusion = off
