-- $1 user: what they chose, and what their organization pays for.
select s.user_id, s.language, s.voice, s.version, o.plan, o.id as organization_id, o.version as plan_version
from public.settings as s
join public.members as m on m.user_id = s.user_id
join public.organizations as o on o.id = m.org_id
where s.user_id = $1
