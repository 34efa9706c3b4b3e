-- $1 user: what a greeting is made of, in one snapshot: the profile and the three memories that matter most.
-- Nothing else is selected: while this row is what it was, no model is asked for another greeting.
select
    p.name, p.mood, p.version as profile_version,
    coalesce((
        select max(chosen.version) from (
            select m.version from public.memories as m where m.user_id = p.id
            order by m.importance desc, m.id desc limit 3
        ) as chosen
    ), 0) as memories_version,
    array(
        select m.content from public.memories as m where m.user_id = p.id
        order by m.importance desc, m.id desc limit 3
    ) as memories
from public.profiles as p where p.id = $1
