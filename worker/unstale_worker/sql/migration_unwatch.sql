
-- No rule names @{table} any more. It is found by the name it was watched under: it may be renamed or dropped since.
select unstale.unwatch(w.relation)
from unstale.watched as w
where w.table_schema = @{schema} and w.table_name = @{name} and w.state = 'watched';
