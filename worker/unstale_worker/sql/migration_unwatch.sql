
-- No rule names @{table} any more. Found by the name it was watched under: it may be renamed or gone by now.
select unstale.unwatch(w.relation)
from unstale.watched as w
where w.table_schema = @{schema} and w.table_name = @{name} and w.state = 'watched';
