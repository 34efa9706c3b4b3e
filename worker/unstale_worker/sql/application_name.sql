-- Name this session after the worker's fence, so that the next leader can end it.
select set_config('application_name', $1::text, false)
