select o.id, o.plan, o.version
from members as m join organizations as o on o.id = m.org_id where m.user_id = $1
