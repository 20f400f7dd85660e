package tunnel

import (
	"iter"
	"slices"
	"sync"
	"time"
	"unique"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

// MaxLabelValue is how many bytes of a label's value are kept.
const MaxLabelValue = 128

// Label is a name and a value that tunnels may have in common.
type Label struct{ Name, Value string }

// LabelOf is a label as tunnels have it: its value is printable, and no other one's if it is
// kept whole. Of what is longer than [MaxLabelValue] bytes the beginning is kept, which may
// be others' too, but is never a whole value.
func LabelOf(name, value string) (l Label, whole bool) {
	kept, whole := printable.Exact(value, MaxLabelValue)
	return Label{name, kept}, whole
}

// Labels are those of one tunnel. Equal ones of several tunnels share their memory.
type Labels struct {
	all []unique.Handle[Label]
	// places are where the tunnel is among those with each label, guarded by the mu of
	// the registry's index.
	places []int
}

// NewLabels makes the labels of one tunnel. Those without a value are left out; nil
// means that there are none.
func NewLabels(all iter.Seq2[string, string]) *Labels {
	var l Labels
	for name, value := range all {
		if value != "" {
			kept, _ := LabelOf(name, value)
			l.all = append(l.all, unique.Make(kept))
		}
	}
	if len(l.all) == 0 {
		return nil
	}
	l.places = make([]int, len(l.all))
	return &l
}

// All are the labels in the order of the configuration.
func (l *Labels) All() iter.Seq[Label] {
	return func(yield func(Label) bool) {
		if l == nil {
			return
		}
		for _, h := range l.all {
			if !yield(h.Value()) {
				return
			}
		}
	}
}

// Get returns the value of a label; empty means that there is none.
func (l *Labels) Get(name string) string {
	for label := range l.All() {
		if label.Name == name {
			return label.Value
		}
	}
	return ""
}

// labelIndex finds tunnels by their labels: with many clients, of which each comes
// again and again to prolong its own tunnels, nobody can look at all of them.
type labelIndex struct {
	mu      sync.Mutex // guards what follows, and the places in the labels; a leaf
	tunnels map[unique.Handle[Label]][]*Tunnel
}

func (x *labelIndex) add(t *Tunnel) {
	if t.Labels == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.tunnels == nil {
		x.tunnels = make(map[unique.Handle[Label]][]*Tunnel)
	}
	for i, h := range t.Labels.all {
		t.Labels.places[i] = len(x.tunnels[h])
		x.tunnels[h] = append(x.tunnels[h], t)
	}
}

func (x *labelIndex) remove(t *Tunnel) {
	if t.Labels == nil {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, h := range t.Labels.all {
		all := x.tunnels[h]
		place, last := t.Labels.places[i], len(all)-1
		moved := all[last]
		all[place], all[last] = moved, nil
		moved.Labels.places[slices.Index(moved.Labels.all, h)] = place
		if x.tunnels[h] = all[:last]; last == 0 {
			delete(x.tunnels, h)
		}
	}
}

// Labelled returns the live tunnels that have one of these labels: the one that fewest
// have, as a tenant may have all tunnels, and a session one.
func (r *Registry) Labelled(of ...Label) []*Tunnel {
	r.labels.mu.Lock()
	defer r.labels.mu.Unlock()
	var fewest []*Tunnel
	for i, l := range of {
		if having := r.labels.tunnels[unique.Make(l)]; i == 0 || len(having) < len(fewest) {
			fewest = having
		}
	}
	return slices.Clone(fewest)
}

// Renew has the live tunnels that have all of these labels expire after so much more
// time, as in [Tunnel.Renew], and returns how many expire later than before. What is not
// kept whole of a label may be another one's too, so it means no tunnel.
func (r *Registry) Renew(labels map[string]string, left, longest time.Duration) (renewed int) {
	var all []Label
	for name, value := range labels {
		l, whole := LabelOf(name, value)
		if !whole || value == "" {
			return 0
		}
		all = append(all, l)
	}
	at := r.Now().Add(left)
	for _, t := range r.Labelled(all...) {
		if t.hasAll(all) && t.Renew(at, longest) {
			renewed++
		}
	}
	return renewed
}

func (t *Tunnel) hasAll(labels []Label) bool {
	for _, l := range labels {
		if t.Labels.Get(l.Name) != l.Value {
			return false
		}
	}
	return true
}
