-- queue_tasks: puts tasks into the queue of those that may be claimed, siblings of one job together. Called by whoever
-- makes tasks ready, with their rows. Answers the capabilities that workers should look for.
create or replace function queue_tasks(p_tasks tasks[], p_now timestamptz) returns int[]
language plpgsql
as $$
declare
  v_ready int[];
begin
  with queued as (
    insert into ready_tasks (capability_id, priority, fair_key, job_id, starts_job, ready_at, attempt, tasks, names)
    select n.capability_id, n.priority, n.fair_key, n.job_id, n.starts_job, p_now, n.attempt,
           array_agg(n.id order by n.n), array_agg(n.name order by n.n)
      from (select t.id, t.name, t.capability_id, t.priority, t.fair_key, t.job_id, t.starts_job, t.attempt,
                   row_number() over (partition by t.job_id, t.capability_id, t.starts_job, t.attempt order by t.id) as n
              from unnest(p_tasks) as t) n
     group by n.job_id, n.capability_id, n.starts_job, n.attempt, n.priority, n.fair_key, (n.n - 1) / 16
     order by n.job_id, min(n.n)
    returning capability_id
  )
  select array_agg(distinct capability_id) into v_ready from queued;
  return coalesce(v_ready, '{}');
end
$$;
