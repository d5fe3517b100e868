-- open_tasks: makes pending tasks ready: straight away, or, where the tenant has a cap, as held; the caller promotes
-- afterwards. Called by whoever releases, returns or reopens tasks and holds their jobs' rows. Answers the capabilities
-- that became ready.
create or replace function open_tasks(p_tasks uuid[], p_now timestamptz) returns int[]
language plpgsql
as $$
declare
  v_held uuid[];
begin
  with held as (
    update tasks set slot = 1, ready_at = p_now where id = any(p_tasks) and slot is not null returning id
  )
  select array_agg(id) into v_held from held;
  if v_held is not null then
    p_tasks := array(select unnest(p_tasks) except select unnest(v_held));
  end if;
  if p_tasks = '{}' then
    return '{}';
  end if;
  return queue_tasks(p_tasks, p_now);
end
$$;
