package conn

import "sync"

// ahead tells how much a peer's system has yet to take until it has all that one of
// several streams in a connection of TCP has written. What the others write afterwards does
// not count, or they would make a peer that is dead look slow.
type ahead struct {
	mu    sync.Mutex
	wrote uint64 // by the stream, when until was last set
	until uint64 // how many bytes of the connection have to be acknowledged
}

// left returns how many bytes that is, or 0 if nobody knows. wrote grows with what the
// stream writes. What others have written since then is taken for the stream's, so this has
// to be called from time to time.
func (a *ahead) left(s Socket, wrote uint64) int {
	conn, ok := s.tcp()
	if !ok {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	taken, ok := acknowledged(conn)
	if !ok {
		return 0
	}
	if wrote != a.wrote {
		a.wrote, a.until = wrote, taken+uint64(backlog(conn))
	}
	return int(max(a.until, taken) - taken)
}
