package upstream

// Provenance is where an address comes from that depends on the request: another one
// with placeholders, or a source that is asked in handshakes.
type Provenance struct {
	template string // before placeholders were replaced; empty for a source
	source   string // its module
}

// FromTemplate is the provenance of what an address with placeholders becomes.
func FromTemplate(dial string) *Provenance {
	return &Provenance{template: dial}
}

// FromSource is the provenance of what a source finds for a request.
func FromSource(name string) *Provenance {
	return &Provenance{source: name}
}

// Spelling is how the configuration has it.
func (o *Provenance) Spelling() string {
	if o.template != "" {
		return o.template
	}
	return "dynamic " + o.source
}
