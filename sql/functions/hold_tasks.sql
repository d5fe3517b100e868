-- hold_tasks: locks the scheduled and held tasks of jobs, the only ones that others (promote_scheduled, promote_held)
-- make ready without the jobs' rows. Afterwards, in a new statement, the caller sees what they made ready, and they make
-- no more. Called by verbs that hold the jobs' rows and go through the tasks that do not run.
create or replace function hold_tasks(p_jobs uuid[]) returns void
language sql
as $$
  select from tasks where job_id = any(p_jobs) and (run_at is not null or slot = 1) order by id for no key update
$$;
