-- job_eta: seconds until a running job is expected to be done. Each model stage goes on at the rate it has had since its
-- first task began; one that has said nothing yet goes at the pace of its model in the last finished jobs. What aligns
-- waits for what transcribes, the rest runs at once. Null while nothing has begun, or nobody knows. Called by the view
-- job_details and by extend_leases.
create or replace function job_eta(p_job uuid, p_status text) returns double precision
language sql stable
as $$
  select case when p_status = 'running' then (
    with stages as (
      select k.stage, min(t.capability_id) as capability_id, sum(t.total_seconds) as total,
             extract(epoch from dalston_now() - min(t.started_at)) as elapsed,
             sum(case when t.state in (3, 5) then t.total_seconds else least(t.done_seconds, t.total_seconds) end) as done
        from current_tasks t join capabilities k on k.id = t.capability_id
       where t.job_id = p_job and k.stage not in ('prepare', 'merge') group by k.stage
    ), expected as (
      select stage, elapsed,
             case when done >= total then 0
                  when done > 0 then (total - done) / done * elapsed
                  when total * pace > coalesce(elapsed, 0) then total * pace - coalesce(elapsed, 0)
                  when pace is not null then 0 end as seconds
        from stages left join lateral (
          select sum(extract(epoch from t.completed_at - t.started_at)) / nullif(sum(t.total_seconds), 0) as pace
            from (select id from jobs where completed_at is not null order by completed_at desc limit 20) finished
            join tasks t on t.job_id = finished.id
           where t.capability_id = stages.capability_id and t.state = 3) before on stages.done = 0
    )
    select case when bool_and(seconds is not null) and bool_or(elapsed is not null) then
             greatest(max(seconds), sum(seconds) filter (where stage = 'transcribe' or stage = 'align' and elapsed is null)) end
      from expected) end
$$;
