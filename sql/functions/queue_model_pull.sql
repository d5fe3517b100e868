-- queue_model_pull: has whichever worker takes it first pull a model whose row the caller holds. Called by
-- request_model_pull and pull_needed_model.
create or replace function queue_model_pull(p_model text, p_expected_bytes bigint, p_force boolean) returns void
language sql
as $$
  update models
     set status = 'downloading', force = p_force, removing = false, error = null, expected_bytes = p_expected_bytes,
         downloaded_bytes = 0, progress_at = dalston_now(), transfer_worker = null, transfer_ends_at = null,
         transfer_attempt = 0, updated_at = dalston_now()
   where id = p_model
$$;
