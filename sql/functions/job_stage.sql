-- job_stage: the stage being worked on: of the running tasks the earliest in the pipeline. Null when none runs. Called
-- by the view job_details.
create or replace function job_stage(p_job uuid, p_status text) returns text
language sql stable
as $$
  select k.stage
    from running_tasks r
    cross join unnest(r.tasks) as u (id)
    join tasks t on t.id = u.id
    join capabilities k on k.id = t.capability_id
   where p_status in ('running', 'cancelling') and r.job_id = p_job
   order by array_position(array['prepare', 'transcribe', 'align', 'diarize', 'merge'], k.stage) limit 1
$$;
