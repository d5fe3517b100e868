-- give_back_model_pull: a worker that stops leaves its pull to another; the attempt does not count. Called by workers.
create or replace function give_back_model_pull(p_model text, p_transfer bigint) returns boolean
language sql
as $$
  with given_back as (
    update models
       set transfer_worker = null, transfer_ends_at = null, transfer_attempt = greatest(transfer_attempt - 1, 0)
     where id = p_model and transfer = p_transfer and transfer_worker is not null
    returning 1)
  select exists (select from given_back)
$$;
