-- job_eta: seconds until a running job is expected to be done.
--
-- What is left of each task takes the time on a worker that its stage has taken for a second of audio in this job, or
-- took in the last finished jobs while this one does not know. As many tasks go on at once as have so far, on average, or
-- do now; none of them is done before it has run by itself. Null while nothing has begun, or the pace of a stage is not
-- known. Called by the view job_details and by extend_leases.
create or replace function job_eta(p_job uuid, p_status text) returns double precision
language sql stable
as $$
  select case when p_status = 'running' then (
    with work as materialized (
      select t.capability_id, t.state, t.started_at, t.total_seconds as total,
             -- What was told in an earlier attempt must be done again.
             case when t.state in (3, 5) then t.total_seconds
                  when t.state = 2 and t.told_at > t.started_at then least(t.done_seconds, t.total_seconds) else 0 end as done,
             case when t.state = 3 then t.completed_at
                  when t.state = 2 and t.told_at > t.started_at then t.told_at end as told_at
        from current_tasks t join capabilities k on k.id = t.capability_id
       where t.job_id = p_job and k.stage not in ('prepare', 'merge')
    ), stages as (
      select capability_id, sum(extract(epoch from told_at - started_at)) / nullif(sum(done) filter (where told_at > started_at), 0) as pace
        from work group by capability_id
    ), paced as (
      select s.capability_id, coalesce(s.pace, (
               select sum(extract(epoch from t.completed_at - t.started_at)) / nullif(sum(t.total_seconds), 0)
                 from (select id from jobs where completed_at is not null order by completed_at desc limit 100) finished
                 join tasks t on t.job_id = finished.id
                where t.capability_id = s.capability_id and t.state = 3)) as pace
        from stages s
    ), rest as (
      -- Since it was last heard of, a running task has gone on.
      select w.state, w.started_at, coalesce(w.told_at, dalston_now()) as heard_at,
             case when w.done >= w.total then 0
                  when p.pace is not null then greatest(0, (w.total - w.done) * p.pace - case when w.state = 2
                    then extract(epoch from dalston_now() - coalesce(w.told_at, w.started_at)) else 0 end) end as seconds
        from work w join paced p using (capability_id)
    ), fleet as (
      select greatest(count(*) filter (where state = 2), 1,
                      sum(extract(epoch from heard_at - started_at)) filter (where state in (2, 3))
                      / nullif(extract(epoch from max(heard_at) - min(started_at)), 0)) as at_once
        from rest
    )
    select case when bool_and(seconds is not null) and bool_or(started_at is not null) then
             greatest(sum(seconds) / max(at_once), max(seconds)) end
      from rest, fleet) end
$$;
