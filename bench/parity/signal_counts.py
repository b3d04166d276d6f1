"""Parameters and multiply-adds of the networks for signals, built here from their papers, for GunPoint (150 steps, 2 classes).

    python bench/parity/signal_counts.py

`crates/convoke-zoo/tests/counts.rs` holds these lines.
"""

import torch, torch.nn as nn
def macs(net, x):
    total=0
    def hook(m,i,o):
        nonlocal total
        if isinstance(m,nn.Conv1d): total+=o.numel()//o.shape[0]*m.kernel_size[0]*m.in_channels//m.groups
        if isinstance(m,nn.Linear): total+=m.in_features*m.out_features
    for m in net.modules(): m.register_forward_hook(hook)
    net.eval(); net(x); return total
def cbr(i,o,k,relu=True):
    return nn.Sequential(nn.ConstantPad1d(((k-1)//2, k//2),0), nn.Conv1d(i,o,k,bias=False), nn.BatchNorm1d(o), *( [nn.ReLU()] if relu else []))
class GAP(nn.Module):
    def forward(s,x): return x.mean(-1)
mlp=nn.Sequential(nn.Flatten(), nn.Linear(150,500),nn.ReLU(),nn.Linear(500,500),nn.ReLU(),nn.Linear(500,500),nn.ReLU(),nn.Linear(500,2))
fcn=nn.Sequential(cbr(1,128,8),cbr(128,256,5),cbr(256,128,3),GAP(),nn.Linear(128,2))
class Res(nn.Module):
    def __init__(s,i,o):
        super().__init__(); s.b=nn.Sequential(cbr(i,o,8),cbr(o,o,5),cbr(o,o,3,False)); s.s=cbr(i,o,1,False) if i!=o else nn.BatchNorm1d(o)
    def forward(s,x): return torch.relu(s.b(x)+s.s(x))
resnet=nn.Sequential(Res(1,64),Res(64,128),Res(128,128),GAP(),nn.Linear(128,2))
class Mod(nn.Module):
    def __init__(s,i):
        super().__init__(); s.n=nn.Conv1d(i,32,1,bias=False) if i>1 else nn.Identity(); j=32 if i>1 else 1
        s.c=nn.ModuleList([nn.Sequential(nn.ConstantPad1d(((k-1)//2,k//2),0),nn.Conv1d(j,32,k,bias=False)) for k in (40,20,10)])
        s.p=nn.Sequential(nn.MaxPool1d(3,1,1),nn.Conv1d(i,32,1,bias=False)); s.bn=nn.BatchNorm1d(128)
    def forward(s,x):
        n=s.n(x); return torch.relu(s.bn(torch.cat([c(n) for c in s.c]+[s.p(x)],1)))
class Inc(nn.Module):
    def __init__(s):
        super().__init__(); s.m=nn.ModuleList([Mod(1 if i==0 else 128) for i in range(6)]); s.s=nn.ModuleList([cbr(1,128,1,False),cbr(128,128,1,False)]); s.h=nn.Linear(128,2)
    def forward(s,x):
        r=x
        for i,m in enumerate(s.m):
            x=m(x)
            if i%3==2: x=torch.relu(x+s.s[i//3](r)); r=x
        return s.h(x.mean(-1))
class Lev(nn.Module):
    def __init__(s,i,d):
        super().__init__(); f=lambda a: nn.Sequential(nn.ConstantPad1d((2*d,0),0),nn.Conv1d(a,32,3,dilation=d))
        s.a,s.b=f(i),f(32); s.n1,s.n2=nn.LayerNorm(32),nn.LayerNorm(32); s.s=nn.Conv1d(i,32,1) if i!=32 else nn.Identity()
    def forward(s,x):
        y=torch.relu(s.n1(s.a(x).mT).mT); y=torch.relu(s.n2(s.b(y).mT).mT); return torch.relu(y+s.s(x))
class Last(nn.Module):
    def forward(s,x): return x[...,-1]
tcn=nn.Sequential(*[Lev(1 if i==0 else 32,2**i) for i in range(6)],Last(),nn.Linear(32,2))
for n,m in [("mlp-1d",mlp),("fcn-1d",fcn),("resnet-1d",resnet),("inceptiontime",Inc()),("tcn",tcn)]:
    print(f'    ("{n}", {sum(p.numel() for p in m.parameters()):_}, {macs(m,torch.randn(1,1,150)):_}),')
