-- $1 user, $2 text: the memories that hold the text, the most important first.
select m.id, m.content, m.importance, m.version
from public.memories as m
where m.user_id = $1 and strpos(lower(m.content), lower($2)) > 0
order by m.importance desc, m.id desc
limit 10
