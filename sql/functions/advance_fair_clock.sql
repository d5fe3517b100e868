-- advance_fair_clock: raises the fairness clock to the newest job that has a running task, so that a tenant that was
-- idle is filed level with the others, not before them. Called every second by maintenance.
create or replace function advance_fair_clock() returns void
language sql
as $$
  update fair_clock set virtual_time = newest.fair_key
    from (select max(j.fair_key) as fair_key from running_tasks r join jobs j on j.id = r.job_id) newest
   where newest.fair_key > virtual_time
$$;
