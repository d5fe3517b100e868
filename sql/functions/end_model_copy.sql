-- end_model_copy: the object store has all files of a model, named by its manifest; null gives the copy up. False,
-- changing nothing, when it was no longer the worker's own. Called by workers.
create or replace function end_model_copy(p_model text, p_transfer bigint, p_manifest jsonb) returns boolean
language sql
as $$
  with ended as (
    update models
       set stored = p_manifest, transfer_worker = null, transfer_ends_at = null, updated_at = dalston_now()
     where id = p_model and transfer = p_transfer and transfer_worker is not null
    returning 1)
  select exists (select from ended)
$$;
