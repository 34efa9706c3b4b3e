-- What a greeting is made of: the profile, the three memories that matter most, and the newest version of any.
select
    p.name, p.mood, p.version,
    (select max(m.version) from memories as m where m.user_id = p.id) as memories_version,
    array(
        select m.content from memories as m where m.user_id = p.id
        order by m.importance desc, m.id desc limit 3
    ) as memories
from profiles as p where p.id = $1
