-- Every change of a job's state, sent in the transaction that makes it. Anyone with a pgmq client may read it.
-- pgmq's insert notification stays off: it would make senders wait for each other's open transactions.
select pgmq.create('job_events');
