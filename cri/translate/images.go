package translate

import (
	"strconv"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimd/shimd/image"
)

// ImageName answers the image that a spec names.
func ImageName(field string, s *criv1.ImageSpec) (string, error) {
	c := &check{}
	c.required(field+".image", s.GetImage())
	c.word(field+".image", s.GetImage())
	return s.GetImage(), c.err()
}

// PullRequest translates PullImage. The sandbox_config is not looked at: no image here depends on the pod that it is for.
func PullRequest(req *criv1.PullImageRequest) (image.PullRequest, error) {
	name, err := ImageName("image", req.GetImage())
	if err != nil {
		return image.PullRequest{}, err
	}
	out := image.PullRequest{Ref: name}
	if a := req.GetAuth(); a != nil {
		out.Auth = &image.Auth{
			Username:      a.GetUsername(),
			Password:      a.GetPassword(),
			Auth:          a.GetAuth(),
			ServerAddress: a.GetServerAddress(),
			IdentityToken: a.GetIdentityToken(),
			RegistryToken: a.GetRegistryToken(),
		}
	}
	return out, nil
}

// ToImage answers an image as CRI words it.
func ToImage(img image.Image) *criv1.Image {
	out := &criv1.Image{
		Id:          string(img.ID),
		RepoTags:    img.RepoTags,
		RepoDigests: img.RepoDigests,
		Size:        img.Size,
		Spec:        &criv1.ImageSpec{Image: string(img.ID)},
		Pinned:      img.Pinned,
	}
	out.Uid, out.Username = imageUser(img.Config.User)
	return out
}

// imageUser splits an image's USER ("1000", "1000:1000", "name", "name:group") the way the kubelet needs it to enforce runAsNonRoot: a
// number that is no uid at all is passed on as a name, which the kubelet then refuses to vouch for (CVE-2024-40635: never as root or
// by wrapping around).
func imageUser(user string) (*criv1.Int64Value, string) {
	name, _, _ := strings.Cut(user, ":")
	if name == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseUint(name, 10, 32); err == nil && uid < 1<<32-1 {
		return &criv1.Int64Value{Value: int64(uid)}, ""
	}
	return nil, name
}

// ToFsUsage answers a file system's use.
func ToFsUsage(u image.FsUsage) *criv1.FilesystemUsage {
	return &criv1.FilesystemUsage{
		Timestamp:  nanos(u.Timestamp),
		FsId:       &criv1.FilesystemIdentifier{Mountpoint: u.Mountpoint},
		UsedBytes:  &criv1.UInt64Value{Value: u.UsedBytes},
		InodesUsed: &criv1.UInt64Value{Value: u.InodesUsed},
	}
}
