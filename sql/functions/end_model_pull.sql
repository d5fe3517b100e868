-- end_model_pull: a pull ended: well with p_error null, else for good. False, changing nothing, when it was no longer
-- the worker's own. Called by workers.
create or replace function end_model_pull(
  p_model text, p_transfer bigint, p_engine text, p_stage text, p_size bigint, p_error text
) returns boolean
language sql
as $$
  with ended as (
    update models
       set status = case when p_error is null then 'ready' else 'failed' end, error = p_error,
           engine = coalesce(p_engine, engine), stage = coalesce(p_stage, stage),
           downloaded_bytes = coalesce(p_size, downloaded_bytes), expected_bytes = coalesce(p_size, expected_bytes),
           downloaded_at = case when p_error is null then dalston_now() else downloaded_at end, force = false,
           progress_at = dalston_now(), transfer_worker = null, transfer_ends_at = null, updated_at = dalston_now()
     where id = p_model and transfer = p_transfer and transfer_worker is not null
    returning 1)
  select exists (select from ended)
$$;
