package relay

import "testing"

// Both receivers stop reading now and then, until nothing moves any more.
func TestRelayCarriesBulkToReceiversThatPause(t *testing.T) {
	size := int(bulkSize(t, 16<<20))
	c := newCrowd(t, 0)
	for _, comb := range combinations(t) {
		c.add(comb.name, func(m *member) {
			r := comb.rig(m)
			r.smallBuffers()
			r.way(ClientToUpstream).narrow()
			r.way(UpstreamToClient).narrow()
			r.start()
			var done []<-chan struct{}
			for d := range Direction(2) {
				w := r.way(d)
				done = append(done, w.pourRepeated(size), inBackground(func() { w.gatherWithPauses(size) }))
			}
			for _, ch := range done {
				<-ch
			}
			r.client.closeWrite()
			r.upstream.closeWrite()
			r.client.expectEnd()
			r.upstream.expectEnd()
			r.waitDone()
			r.expectAllTaken(ClientToUpstream, uint64(size))
			r.expectAllTaken(UpstreamToClient, uint64(size))
		})
	}
	c.wait()
}

// gatherWithPauses is expectRepeated that stops on the way, the last time
// while there is still more to come than the system could hold.
func (w way) gatherWithPauses(size int) {
	const pauses = 4
	var got comparison
	for i := range pauses {
		w.expectMore(&got, size/(pauses+1)*(i+1))
		eventually(w.tb, "the direction stalls", w.stall())
	}
	w.expectMore(&got, size)
}
