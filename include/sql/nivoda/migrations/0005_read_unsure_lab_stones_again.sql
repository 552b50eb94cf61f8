-- A certificate that left open whether its stone was grown in a laboratory made a natural one of it, even in the feed
-- of such stones. Which ones these were their payloads would tell, but most are gone: without its hash a stone is
-- taken for changed by the next run that reads it, and is mapped anew.
update raw_diamonds_nivoda as r
set payload_hash = ''
from diamonds as d
where
    d.feed = 'nivoda-labgrown' and d.lab_grown is false
    and r.feed = d.feed and r.supplier_stone_id = d.supplier_stone_id;
