package launch

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func dec(v uint64) string   { return strconv.FormatUint(v, 10) }
func quote(s string) string { return strconv.Quote(s) }

// String shows the program as strace would show its run, one op a line, with its index, what its result is called, and which errors are no
// failure:
//
//	12 %proc = fsmount(%proc.fs, FSMOUNT_CLOEXEC, NOSUID|NODEV|NOEXEC)
//	31 move_mount(%null, "", %masked, "", ...) ignoring ENOTDIR, then skip 2
func (p *Program) String() string {
	var b strings.Builder
	for i, name := range p.files {
		fmt.Fprintf(&b, "# %d %s\n", i, name)
	}
	for i := 0; i < len(p.ops); i++ {
		o := &p.ops[i]
		if o.fold != "" {
			last := i
			for last+1 < len(p.ops) && p.ops[last+1].fold == o.fold {
				last++
			}
			fmt.Fprintf(&b, "%d..%d %s\n", i, last, o.fold)
			i = last
			continue
		}
		fmt.Fprintf(&b, "%d %s\n", i, p.line(o))
	}
	return b.String()
}

func (p *Program) line(o *op) string {
	var b strings.Builder
	if o.result.number != 0 {
		fmt.Fprintf(&b, "%%%s = ", p.slots[o.result.number-1])
	}
	b.WriteString(o.call.String() + "(")
	for i, a := range o.args {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(a.text)
	}
	b.WriteString(")")
	if o.forks {
		b.WriteString(", the child goes on")
		if o.between {
			b.WriteString(" as one in between")
		}
	}
	if o.onSuccess != 0 {
		fmt.Fprintf(&b, ", then skip %d", o.onSuccess)
	}
	for i, e := range o.ignore {
		if i == 0 {
			b.WriteString(" ignoring ")
		} else {
			b.WriteString(", ")
		}
		b.WriteString(unix.ErrnoName(e))
	}
	if o.onIgnored != 0 {
		fmt.Fprintf(&b, " and skipping %d", o.onIgnored)
	}
	return b.String()
}
