package metrics

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// table is a sync.Map of one type.
type table[K comparable, V any] struct{ m sync.Map }

func (t *table[K, V]) load(key K) (V, bool) {
	value, ok := t.m.Load(key)
	v, _ := value.(V)
	return v, ok
}

func (t *table[K, V]) store(key K, value V) { t.m.Store(key, value) }

func (t *table[K, V]) remove(key K) { t.m.Delete(key) }

// all is an iterator. It holds no lock that others wait for.
func (t *table[K, V]) all(yield func(K, V) bool) {
	t.m.Range(func(key, value any) bool {
		k, _ := key.(K)
		v, _ := value.(V)
		return yield(k, v)
	})
}

// life tells whether there are series of something. What uses it are configurations and
// tunnels.
type life struct {
	users int // guarded by the metrics' mu
	// idle is since when nothing uses it, in nanoseconds since 1970; zero: something does.
	idle atomic.Int64
}

func (l *life) use() {
	l.users++
	l.idle.Store(0)
}

func (l *life) leave(now time.Time) {
	l.users--
	l.seen(now)
}

// seen has what nothing uses last from now on.
func (l *life) seen(now time.Time) {
	if l.users == 0 {
		l.idle.Store(now.UnixNano())
	}
}

func (l *life) isOver(now time.Time) bool {
	since := l.idle.Load()
	return since != 0 && now.UnixNano()-since >= int64(keptFor)
}

// maxLabel is how long a label's value may be, in bytes.
const maxLabel = 128

// Label makes a label's value of any text: Prometheus refuses what is no UTF-8, and all
// that there is with it.
func Label(s string) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) <= maxLabel {
		return s
	}
	end := maxLabel
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}
